# SPDX-License-Identifier: Apache-2.0
"""What all block RAMs of the core share."""

RAM_ATTRIBUTES = {"no_rw_check": 1}
"""For memories where no one reads a word in the cycle that writes it, or does not care what comes:
without it Yosys builds the old value's path from a LUT and a flip-flop a bit."""
