# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random

import pytest
from amaranth.sim import Simulator
from hypothesis import given, settings
from hypothesis import strategies as st

from bitloop.hw.axi import BURST_BEATS
from bitloop.hw.bursts import BurstSplitter
from bitloop.hw.config import preset
from bitloop.hw.isa import Window

Request = tuple[Window, int, int]  # window, offset, bytes
WINDOWS = {
    Window.PROGRAM: (0x1000, 4096),
    Window.INPUT: (0x7FFF_FFF0, 3000),
    Window.OUTPUT: (0xFFFF_0000, 0x10000),  # up to the end of the address space
    Window.SCRATCH: (0x4000, 0),
}


def split(
    dut: BurstSplitter, requests: list[Request], ready: float, seed: int
) -> tuple[list[tuple[int, int, int]], bool]:
    """Bursts (address, beats, final) and whether there was a violation. The last byte of every
    request is marked final."""
    rng = random.Random(seed)
    bursts: list[tuple[int, int, int]] = []
    violation = False

    async def bench(ctx) -> None:
        nonlocal violation
        for window, (base, size) in WINDOWS.items():
            ctx.set(dut.windows[window].base, base)
            ctx.set(dut.windows[window].size, size)
        left = list(requests)
        quiet = 0
        while quiet < 5:
            ctx.set(dut.request.valid, bool(left))
            if left:
                window, offset, size = left[0]
                ctx.set(
                    dut.request.payload,
                    {"window": window, "offset": offset, "bytes": size, "final": 1},
                )
            take = rng.random() < ready
            ctx.set(dut.burst.ready, take)
            busy = False
            if take and ctx.get(dut.burst.valid):
                burst = dut.burst.payload
                bursts.append(
                    (ctx.get(burst.address), ctx.get(burst.length) + 1, ctx.get(burst.final))
                )
                busy = True
            if left and ctx.get(dut.request.ready):
                left.pop(0)
                busy = True
            violation = bool(ctx.get(dut.violation))
            quiet = 0 if busy or not take else quiet + 1
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return bursts, violation


def beats_of(bursts: list[tuple[int, int, int]], step: int) -> list[int]:
    return [address + i * step for address, count, _ in bursts for i in range(count)]


@st.composite
def legal(draw: st.DrawFn) -> Request:
    window = draw(st.sampled_from([Window.PROGRAM, Window.INPUT, Window.OUTPUT]))
    size = WINDOWS[window][1]
    length = draw(st.integers(1, min(size, 1500)))
    offset = draw(st.sampled_from([0, size - length]) | st.integers(0, size - length))
    return window, offset, length


@pytest.mark.parametrize("data_bits", [32, 128])
@settings(max_examples=25, deadline=None)
@given(requests=st.lists(legal(), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_bursts_hold_exactly_the_beats_of_the_requests(
    data_bits: int, requests: list[Request], seed: int
) -> None:
    dut = BurstSplitter(preset("n4").replace(data_bits=data_bits))
    bursts, violation = split(dut, requests, 0.7, seed)
    step = data_bits // 8
    expected: list[int] = []
    for window, offset, length in requests:
        first = WINDOWS[window][0] + offset
        expected += range(first // step * step, first + length, step)
    assert beats_of(bursts, step) == expected
    assert not violation
    assert sum(final for *_, final in bursts) == len(requests)
    for address, count, _ in bursts:
        assert count <= BURST_BEATS
        assert address // 4096 == (address + count * step - 1) // 4096


@pytest.mark.parametrize(
    "bad",
    [
        (Window.INPUT, 0, 3001),
        (Window.INPUT, 2999, 2),
        (Window.INPUT, 3000, 1),
        (Window.INPUT, 2**32 - 1, 1),
        (Window.INPUT, 2**32 - 1, 2),
        (Window.INPUT, 0, 2**27 - 1),
        (Window.INPUT, 0, 0),
        (Window.SCRATCH, 0, 1),
        (Window.OUTPUT, 0, 1),
    ],
)
def test_a_request_outside_its_window_yields_nothing(bad: Request) -> None:
    dut = BurstSplitter(preset("n4"), (Window.INPUT, Window.SCRATCH))
    good = (Window.INPUT, 100, 300)
    bursts, violation = split(dut, [good, bad, good], 0.8, 1)
    assert violation
    base = WINDOWS[Window.INPUT][0]
    assert beats_of(bursts, 4) == list(range(base + 100, base + 400, 4))


def test_a_request_too_long_for_the_size_bits_is_a_violation() -> None:
    dut = BurstSplitter(preset("n4"), (Window.OUTPUT,), size_bits=12)
    bursts, violation = split(dut, [(Window.OUTPUT, 0, 4095), (Window.OUTPUT, 0, 4096)], 1.0, 0)
    assert violation
    assert beats_of(bursts, 4) == list(range(0xFFFF_0000, 0xFFFF_0000 + 4095, 4))
