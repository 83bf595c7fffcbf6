# SPDX-License-Identifier: Apache-2.0
"""Verilator builds, the simulated core as a device, and the cocotb regression."""
