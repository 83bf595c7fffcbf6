# SPDX-License-Identifier: Apache-2.0
"""Names of nodes and tensors."""

from __future__ import annotations


def unique(name: str, taken: set[str]) -> str:
    """`name`, with a number appended if it is taken; marks the result as taken."""
    candidate, number = name, 0
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken.add(candidate)
    return candidate
