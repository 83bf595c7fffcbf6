# SPDX-License-Identifier: Apache-2.0
"""The dot product of a column: bit slices, an adder tree a slice, one join."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .carry import add, add_selected, check_target, slice_product
from .config import CoreConfig
from .delay import delayed

LATENCY = 4
"""Cycles from the operands to the sum."""


class DotProduct(wiring.Component):
    """Sum over all lanes of activation times weight, `LATENCY` cycles later, one a cycle.

    Slice k of a weight byte (bits slice_bits * k and up) multiplies its own activation byte. The
    slices' sums are joined by weight width: S0 + 4 S1 + 16 S2 + 64 S3 for 8 bits, (S0 + 4 S1) +
    (S2 + 4 S3) for 4, S0 + S1 + S2 + S3 for 2; with 4-bit slices S0 + 16 S1 and S0 + S1. The top
    bit of each weight multiplies the complement of its activation, so the sum is never negative
    and exceeds the true dot product by a term of the weights alone (`isa.complement_weight`).

    `clear` makes the sum 0, whatever the operands are.

    Members
    -------
    operands : slices x lanes bytes
    taps : bytes that replace the operands of all slices of the first lanes where `use_taps`
    weights : lanes bytes
    wide : weights have 8 bits; narrow : 2 bits; otherwise 4
    total : the sum
    """

    def __init__(self, config: CoreConfig, taps: int, target: str = "generic") -> None:
        self._config = config
        self._taps = taps
        self._target = check_target(target)
        self._product_max = 255 * ((1 << config.slice_bits) - 1)
        lanes = data.ArrayLayout(unsigned(8), config.lanes)
        super().__init__(
            {
                "operands": In(data.ArrayLayout(lanes, config.slices)),
                "taps": In(data.ArrayLayout(unsigned(8), taps)),
                "weights": In(lanes),
                "use_taps": In(1),
                "wide": In(1),
                "narrow": In(1),
                "clear": In(1),
                "total": Out((255 * 255 * config.lanes).bit_length()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        wide = delayed(m, self.wide, LATENCY - 1, "wide")
        narrow = delayed(m, self.narrow, LATENCY - 1, "narrow")
        clear = delayed(m, self.clear, LATENCY - 1, "clear")

        # Registers follow the product and first level, two more levels, the rest and the first
        # join, the last join.
        sums = []
        for k in range(config.slices):
            values, bound = self._products(m, k), self._product_max
            level = 0
            while len(values) > 1:
                bound *= 2
                level += 1
                values = [
                    self._add(m, a, b, bound, f"slice{k}_level{level}_{i}", level in (1, 3))
                    for i, (a, b) in enumerate(zip(values[::2], values[1::2], strict=True))
                ]
            if level == 2:
                values = delayed(m, values[0], 1, f"slice{k}_sum")[-1:]
            sums.append(values[0])

        joined = self._join_pairs(m, sums, narrow[2])
        self._join(m, joined, wide[3], clear[3])
        return m

    def _products(self, m: Module, k: int) -> list:
        """Products of slice k, one a lane."""
        config = self._config
        taps = Cat(*self.taps)
        operands = self.operands[k].as_value()
        activations = Signal(8 * config.lanes, name=f"slice{k}_activations")
        m.d.comb += activations.eq(
            Cat(
                Mux(self.use_taps, taps, operands[: 8 * self._taps]),
                operands[8 * self._taps :],
            )
        )
        # The last slice holds the top bit of a weight of any width: its complement is part of the
        # product. The others hold one only where weights are narrower.
        last = k == config.slices - 1
        top_activations = activations
        if not last:
            signed_here = ~self.wide if k % 2 == 1 or config.slices == 2 else self.narrow
            top_activations = Signal(8 * config.lanes, name=f"slice{k}_top_activations")
            m.d.comb += top_activations.eq(activations ^ signed_here.replicate(8 * config.lanes))
        return [
            slice_product(
                m,
                self._target,
                activations.word_select(lane, 8),
                top_activations.word_select(lane, 8),
                last,
                self.weights[lane].word_select(k, config.slice_bits),
                f"slice{k}_lane{lane}",
            )
            for lane in range(config.lanes)
        ]

    def _add(self, m: Module, a, b, bound: int, name: str, register: bool):
        total = add(m, self._target, a, b, bound.bit_length(), f"{name}_sum")
        return delayed(m, total, 1, name)[-1] if register else total

    def _join_pairs(self, m: Module, sums: list, narrow) -> list:
        """Register (S0, S1), or with four slices S0 + 4 S1 and S2 + 4 S3 (without the 4 for 2-bit
        weights)."""
        if len(sums) == 2:
            return [delayed(m, value, 1, f"joined{i}")[-1] for i, value in enumerate(sums)]
        joined = []
        for i in (0, 2):
            low, high = sums[i], sums[i + 1]
            bits = (5 * self._config.lanes * self._product_max).bit_length()
            total = add_selected(
                m, self._target, low, narrow, high, high << 2, bits, f"joined{i}_sum"
            )
            joined.append(Signal(bits, name=f"joined{i}", reset_less=True))
            m.d.sync += joined[-1].eq(total)
        return joined

    def _join(self, m: Module, joined: list, wide, clear) -> None:
        low, high = joined
        bits = len(self.total)
        total = add_selected(m, self._target, low, wide, high << 4, high, bits, "joined")
        output = Signal(bits, reset_less=True)
        m.d.sync += output.eq(total)
        with m.If(clear):
            m.d.sync += output.eq(0)
        m.d.comb += self.total.eq(output)
