# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gc
import random
from collections import deque

import pytest
from amaranth.sim import Simulator

from bitloop.hw.fifo import Fifo, SkidBuffer, power_of_two_within


@pytest.mark.parametrize("depth", [1, 2, 8])
def test_keeps_order_and_capacity(depth: int) -> None:
    dut = Fifo(8, depth)
    rng = random.Random(depth)
    held: deque[int] = deque()
    levels = set()

    async def bench(ctx) -> None:
        for _ in range(400):
            # Mostly filling, then mostly emptying, so that both ends are reached.
            share = rng.choice([0.1, 0.9])
            give, take, value = rng.random() < share, rng.random() > share, rng.randrange(256)
            ctx.set(dut.sink.valid, give)
            ctx.set(dut.sink.payload, value)
            ctx.set(dut.source.ready, take)
            assert ctx.get(dut.source.valid) == bool(held)
            assert ctx.get(dut.sink.ready) == (len(held) < depth)
            if held:
                assert ctx.get(dut.source.payload) == held[0]
            accepted = give and len(held) < depth
            if take and held:
                held.popleft()
            if accepted:
                held.append(value)
            levels.add(len(held))
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert levels == set(range(depth + 1))


def test_a_skid_buffer_passes_at_once_and_holds_one() -> None:
    dut = SkidBuffer(8)
    rng = random.Random(1)
    aside: int | None = None
    passed_at_once = held = 0

    async def bench(ctx) -> None:
        nonlocal aside, passed_at_once, held
        for _ in range(400):
            give, take, value = rng.random() < 0.6, rng.random() < 0.5, rng.randrange(256)
            ctx.set(dut.sink.valid, give)
            ctx.set(dut.sink.payload, value)
            # Before the taker has made up its mind: `ready` does not depend on it.
            ctx.set(dut.source.ready, not take)
            assert ctx.get(dut.sink.ready) == (aside is None)
            ctx.set(dut.source.ready, take)
            assert ctx.get(dut.sink.ready) == (aside is None)
            shown = aside if aside is not None else value if give else None
            assert ctx.get(dut.source.valid) == (shown is not None)
            if shown is not None:
                assert ctx.get(dut.source.payload) == shown
            passed_at_once += aside is None and give and take
            held += aside is not None
            aside = None if take else shown
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert passed_at_once > 50 and held > 50


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_refuses_other_depths() -> None:
    with pytest.raises(ValueError, match="power of two, not 3"):
        Fifo(8, 3)
    gc.collect()


def test_depth_within_a_limit() -> None:
    assert [power_of_two_within(n) for n in (1, 2, 3, 4, 5, 16)] == [1, 2, 2, 4, 4, 16]
