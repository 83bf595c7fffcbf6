# SPDX-License-Identifier: Apache-2.0
"""The accelerator core in Amaranth; its config, instruction set and register map are the only ones."""
