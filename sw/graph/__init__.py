# SPDX-License-Identifier: Apache-2.0
"""The integer graph: its definition, its rules and its golden executor."""
