# SPDX-License-Identifier: Apache-2.0
"""The link between a host and a board: gateware and host driver side by side."""
