# SPDX-License-Identifier: Apache-2.0
"""Multiplexers as trees of two-to-one, which map to half the cells a `Switch` takes."""

from __future__ import annotations

from collections.abc import Mapping

from amaranth.hdl import Mux, Value


def choose(index: Value, choices: Mapping[int, Value]) -> Value:
    """The choice under `index`; any of them for an index that has none."""
    return _choose(index, len(index) - 1, dict(choices))


def _choose(index: Value, bit: int, choices: dict[int, Value]) -> Value:
    first = next(iter(choices.values()))
    if all(value is first for value in choices.values()):
        return first
    low = {key: value for key, value in choices.items() if not key >> bit & 1}
    high = {key: value for key, value in choices.items() if key >> bit & 1}
    if not low or not high:
        return _choose(index, bit - 1, low or high)
    return Mux(index[bit], _choose(index, bit - 1, high), _choose(index, bit - 1, low))
