# SPDX-License-Identifier: Apache-2.0
"""Adders that absorb the logic in front of them into the carry chain.

An ECP5 slice in carry mode computes, per bit, a four-input propagate function f(A, B, C, D) and
takes f(A, B, 0, 0) as the generate function. Synthesis uses two of the four inputs; the functions
here use all of them, which saves one LUT a bit. Each has a generic body, and the tests prove the
two equal against the vendor cell's simulation model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from amaranth.hdl import Cat, Const, Instance, Module, Mux, Signal, Value

TARGETS = ("generic", "ecp5")
"""Bodies a component can be elaborated with."""

Bit = tuple[Value, Value, Value, Value]


def check_target(target: str) -> str:
    """`target` itself; raises `ValueError` unless it is one of `TARGETS`."""
    if target not in TARGETS:
        raise ValueError(f"target must be one of {', '.join(TARGETS)}, not {target!r}")
    return target


def _init(function: Callable[[int, int, int, int], int]) -> Const:
    """LUT contents of f(A, B, C, D); A is the low bit of the index."""
    bits = (function(i & 1, i >> 1 & 1, i >> 2 & 1, i >> 3 & 1) << i for i in range(16))
    return Const(sum(bits), 16)


NO_CARRY = _init(lambda a, b, c, d: 0)
SUM_OF_ANDS = _init(lambda a, b, c, d: (a & b) ^ (c & d))
SUM_OF_A_AND_INVERTED_C = _init(lambda a, b, c, d: a ^ c ^ d)
CARRY_OF_ANDS = _init(lambda a, b, c, d: a & b & (1 - d))
"""With D = 1 the sum is 0 and the carry A and B."""
CARRY_OF_A = _init(lambda a, b, c, d: a & (1 - c))
SUM_OF_A_AND_C = _init(lambda a, b, c, d: a ^ c)
SUM_OR_D = _init(lambda a, b, c, d: d if b else a ^ c)
"""With B the carry stays what it was: 0."""
SUM_OF_A_AND_SELECTED = _init(lambda a, b, c, d: a ^ (c if b else d))
SUM_OF_OR_AND_AND = _init(lambda a, b, c, d: (a | b) ^ (c & d))


def carry_chain(m: Module, bits: Sequence[tuple[Const, Bit]], name: str) -> Value:
    """A chain of CCU2C cells, two bits each, carry in 0: `bits` are (function, inputs A to D) from
    bit 0 up; returns as many sum bits.

    An odd chain starts with half a cell that makes the carry 0 whatever comes in: place and route
    can then leave the first carry input open, where a constant would take a cell of its own.
    """
    pad = (NO_CARRY, (Const(0, 1),) * 4)
    start = len(bits) % 2
    padded = [pad] * start + list(bits)
    total = Signal(len(padded), name=name)
    carry: Value = Const(0, 1)
    for i in range(0, len(padded), 2):
        ports: dict[str, object] = {"i_CIN": carry}
        for half, (function, inputs) in enumerate(padded[i : i + 2]):
            ports[f"p_INIT{half}"] = function
            ports[f"p_INJECT1_{half}"] = "NO"
            ports[f"o_S{half}"] = total[i + half]
            for letter, value in zip("ABCD", inputs, strict=True):
                ports[f"i_{letter}{half}"] = value
        carry = Signal(name=f"{name}_carry{i + 2}")
        m.submodules += Instance("CCU2C", o_COUT=carry, **ports)
    return total[start:]


def _bit(value: Value, i: int) -> Value:
    return value[i] if i < len(value) else Const(0, 1)


def add(m: Module, target: str, a: Value, b: Value, width: int, name: str) -> Value:
    """a + b, both unsigned, modulo 2^width.

    Synthesis turns sums of sums into compressors made of LUTs, which take more than the carry
    chains they replace; cells placed here stay.
    """
    if target == "generic":
        total = Signal(width, name=name)
        m.d.comb += total.eq(a + b)
        return total
    zero, one = Const(0, 1), Const(1, 1)
    rows = [(SUM_OF_A_AND_C, (_bit(a, i), zero, _bit(b, i), zero)) for i in range(width)]
    if width % 2:
        return carry_chain(m, rows, name)
    # The lowest bit's sum in a LUT of its own, so that its half of the cell makes the carry alone.
    rows[0] = (CARRY_OF_ANDS, (a[0], b[0], zero, one))
    return Cat(a[0] ^ b[0], carry_chain(m, rows, name)[1:])


def add_selected(
    m: Module, target: str, a: Value, select: Value, x: Value, y: Value, width: int, name: str
) -> Value:
    """a + (x if select else y), all unsigned, modulo 2^width."""
    if target == "generic":
        total = Signal(width, name=name)
        m.d.comb += total.eq(a + Mux(select, x, y))
        return total
    rows = [(_bit(a, i), select, _bit(x, i), _bit(y, i)) for i in range(width)]
    return carry_chain(m, [(SUM_OF_A_AND_SELECTED, row) for row in rows], name)


def add_or_take(
    m: Module, target: str, a: Value, b: Value, take: Value, x: Value, width: int, name: str
) -> Value:
    """x if `take` else a + b, all unsigned, modulo 2^width."""
    if target == "generic":
        total = Signal(width, name=name)
        m.d.comb += total.eq(Mux(take, x, a + b))
        return total
    rows = [(_bit(a, i), take, _bit(b, i), _bit(x, i)) for i in range(width)]
    return carry_chain(m, [(SUM_OR_D, row) for row in rows], name)


def accumulate(
    m: Module, target: str, a: Value, low: Value, keep: Value, x: Value, high: Value, name: str
) -> Value:
    """(a | low) + (x if keep else high << len(low)), all unsigned, modulo 2^len(x)."""
    split, width = len(low), len(x)
    if target == "generic":
        total = Signal(width, name=name)
        m.d.comb += total.eq((a | low) + Mux(keep, x, high << split))
        return total
    rows: list[tuple[Const, Bit]] = [
        (SUM_OF_OR_AND_AND, (_bit(a, i), low[i], x[i], keep)) for i in range(split)
    ]
    for i in range(split, width):
        rows.append((SUM_OF_A_AND_SELECTED, (_bit(a, i), keep, x[i], _bit(high, i - split))))
    return carry_chain(m, rows, name)


def masked_sum(
    m: Module, target: str, a: Value, keep_a: Value, b: Value, keep_b: Value, name: str
) -> Value:
    """(a if keep_a else 0) + (b if keep_b else 0), bytes; nine bits."""
    if target == "generic":
        total = Signal(9, name=name)
        m.d.comb += total.eq(Mux(keep_a, a, 0) + Mux(keep_b, b, 0))
        return total
    rows = [(_bit(a, i), keep_a, _bit(b, i), keep_b) for i in range(9)]
    return carry_chain(m, [(SUM_OF_ANDS, row) for row in rows], name)


def add_or_subtract(
    m: Module, target: str, a: Value, b: Value, subtract: Value, width: int, name: str
) -> Value:
    """a - b if `subtract`, else a + b; a and b unsigned, the result two's complement modulo
    2^width."""
    if target == "generic":
        total = Signal(width, name=name)
        m.d.comb += total.eq(Mux(subtract, a - b, a + b))
        return total
    zero, one = Const(0, 1), Const(1, 1)
    # A bit below the others makes the carry that completes the complement.
    rows = [(CARRY_OF_A, (subtract, zero, one, zero))]
    for i in range(width):
        rows.append((SUM_OF_A_AND_INVERTED_C, (_bit(a, i), zero, _bit(b, i), subtract)))
    return carry_chain(m, rows, name)[1:]


def slice_product(m: Module, target: str, activation: Value, digit: Value, name: str) -> Value:
    """Product of a byte and a digit of 2 or 4 bits, both unsigned."""
    if len(digit) == 4:
        low = slice_product(m, target, activation, digit[:2], f"{name}_low")
        high = slice_product(m, target, activation, digit[2:], f"{name}_high")
        return Cat(low[:2], add(m, target, low[2:], high, 10, f"{name}_upper"))
    if target == "generic":
        total = Signal(10, name=name)
        m.d.comb += total.eq(Mux(digit[0], activation, 0) + (Mux(digit[1], activation, 0) << 1))
        return total
    zero = Const(0, 1)
    rows: list[tuple[Const, Bit]] = []
    for i in range(10):
        high_bit = activation[i - 1] if 1 <= i <= 8 else zero
        rows.append((SUM_OF_ANDS, (_bit(activation, i), digit[0], high_bit, digit[1])))
    return carry_chain(m, rows, name)
