# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from amaranth.hdl import Const, Module, Signal
from amaranth.sim import Simulator
from hypothesis import given, settings
from hypothesis import strategies as st

from bitloop.hw.choose import choose


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.integers(0, 31), st.integers(0, 255), min_size=1))
def test_the_choice_under_each_index(choices: dict[int, int]) -> None:
    index, chosen = Signal(5), Signal(8)
    m = Module()
    m.d.comb += chosen.eq(choose(index, {i: Const(value, 8) for i, value in choices.items()}))

    async def bench(ctx) -> None:
        for i, value in choices.items():
            ctx.set(index, i)
            assert ctx.get(chosen) == value

    simulator = Simulator(m)
    simulator.add_testbench(bench)
    simulator.run()
