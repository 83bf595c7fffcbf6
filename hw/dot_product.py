# SPDX-License-Identifier: Apache-2.0
"""The dot product of a column: an adder tree for each bit of the weights, then one join."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .carry import add, add_or_subtract, add_selected, check_target, masked_sum
from .config import CoreConfig
from .delay import delayed

LATENCY = 4
"""Cycles from the operands to the sum."""
WEIGHT_BITS = 8
DIGIT_BITS = 2


class DotProduct(wiring.Component):
    """Sum over all lanes of activation times weight, `LATENCY` cycles later, one a cycle.

    Slice k of a weight byte (bits slice_bits * k and up) multiplies its own activation byte. Bit b
    of all lanes' weights selects activations for a tree of its own, whose sum is P_b; a carry cell
    adds two selected activations, so the products cost nothing beyond the trees. Behind the trees,
    once a column, two bits make a digit D_k = P_2k + 2 P_2k+1, with a minus where the second is the
    sign bit of a weight, and digits are joined by weight width: D0 + 4 D1 + 16 D2 + 64 D3 for 8
    bits, (D0 + 4 D1) + (D2 + 4 D3) for 4, D0 + D1 + D2 + D3 for 2.

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
        self._plane_bits = (255 * config.lanes).bit_length()
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
                # An 8-bit weight is at least -128, four 2-bit ones at most 4 * 1.
                "total": Out(signed(self._plane_bits + WEIGHT_BITS)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        wide = delayed(m, self.wide, LATENCY - 1, "wide")
        narrow = delayed(m, self.narrow, LATENCY - 1, "narrow")
        clear = delayed(m, self.clear, LATENCY - 1, "clear")

        # Registers follow the first two levels, the rest of the trees, digits and the first join,
        # the last join.
        planes = [self._plane(m, bit) for bit in range(WEIGHT_BITS)]
        digits = self._digits(m, planes, wide[2], narrow[2])
        pairs = [self._join_pair(m, digits, i, narrow[2]) for i in (0, 2)]
        self._join(m, pairs, wide[3], clear[3])
        return m

    def _plane(self, m: Module, bit: int) -> Value:
        """Sum of the activations whose weight has `bit`, two cycles later."""
        config = self._config
        taps = Cat(*self.taps)
        operands = self.operands[bit // config.slice_bits].as_value()
        selected = Mux(self.use_taps, taps, operands[: 8 * self._taps])
        activations = Cat(selected, operands[8 * self._taps :])
        values: list[Value] = [
            masked_sum(
                m,
                self._target,
                activations.word_select(lane, 8),
                self.weights[lane][bit],
                activations.word_select(lane + 1, 8),
                self.weights[lane + 1][bit],
                f"bit{bit}_lane{lane}",
            )
            for lane in range(0, config.lanes, 2)
        ]
        if len(values) > 2:
            values = self._tree_level(m, values, f"bit{bit}_level2")
        values = [delayed(m, value, 1, f"bit{bit}_part{i}")[-1] for i, value in enumerate(values)]
        level = 3
        while len(values) > 1:
            values = self._tree_level(m, values, f"bit{bit}_level{level}")
            level += 1
        return delayed(m, values[0], 1, f"bit{bit}_sum")[-1]

    def _tree_level(self, m: Module, values: list[Value], name: str) -> list[Value]:
        return [
            add(m, self._target, a, b, max(len(a), len(b)) + 1, f"{name}_{i}")
            for i, (a, b) in enumerate(zip(values[::2], values[1::2], strict=True))
        ]

    def _digits(self, m: Module, planes: list[Value], wide: Value, narrow: Value) -> list[Value]:
        """Signed digits of two bits; bits 7, with 4-bit weights 3, with 2-bit ones 1 and 5 are
        sign bits."""
        negative = [narrow, ~wide, narrow, Const(1, 1)]
        return [
            add_or_subtract(
                m,
                self._target,
                planes[2 * k],
                planes[2 * k + 1] << 1,
                negative[k],
                self._plane_bits + DIGIT_BITS + 1,
                f"digit{k}",
            )
            for k in range(WEIGHT_BITS // DIGIT_BITS)
        ]

    def _join_pair(self, m: Module, digits: list[Value], i: int, narrow: Value) -> Value:
        """Register D_i + 4 D_i+1, or D_i + D_i+1 for 2-bit weights."""
        low, high = digits[i], digits[i + 1]
        bits = len(low) + DIGIT_BITS
        total = add_selected(
            m,
            self._target,
            _extend(low, bits),
            narrow,
            _extend(high, bits),
            high << DIGIT_BITS,
            bits,
            f"pair{i}_sum",
        )
        return delayed(m, total, 1, f"pair{i}")[-1]

    def _join(self, m: Module, pairs: list[Value], wide: Value, clear: Value) -> None:
        low, high = pairs
        bits = len(self.total)
        total = add_selected(
            m,
            self._target,
            _extend(low, bits),
            wide,
            _extend(high << 2 * DIGIT_BITS, bits),
            _extend(high, bits),
            bits,
            "joined",
        )
        output = Signal(bits, reset_less=True)
        m.d.sync += output.eq(total)
        with m.If(clear):
            m.d.sync += output.eq(0)
        m.d.comb += self.total.eq(output)


def _extend(value: Value, bits: int) -> Value:
    """The two's complement number in `bits` bits, at least or at most those it has."""
    return Cat(value, value[-1].replicate(max(0, bits - len(value))))[:bits]
