# SPDX-License-Identifier: Apache-2.0
"""Bit-widths of least accuracy loss under a budget of measured cycles."""
