# SPDX-License-Identifier: Apache-2.0
"""The core in Amaranth, with the only definitions of config, instruction set and registers."""
