# SPDX-License-Identifier: Apache-2.0
"""Backends that run accelerator binaries."""
