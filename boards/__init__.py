# SPDX-License-Identifier: Apache-2.0
"""Devices: synthesis, placement and routing of the core. No board yet."""
