# SPDX-License-Identifier: Apache-2.0
"""Two masters through the arbiter onto the memory in block RAM: every byte, in any interleaving."""

import random

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In
from amaranth.sim import Simulator

from bitloop.boards.arbiter import MASTERS, Arbiter
from bitloop.boards.on_chip_memory import OnChipMemory
from bitloop.hw.axi import axi_read_signature, axi_write_signature

SIZE = 4096


class Shared(wiring.Component):
    def __init__(self):
        super().__init__(
            {
                "reads": In(axi_read_signature(32)).array(MASTERS),
                "writes": In(axi_write_signature(32)).array(MASTERS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.arbiter = arbiter = Arbiter()
        m.submodules.memory = memory = OnChipMemory(SIZE)
        for number in range(MASTERS):
            wiring.connect(m, wiring.flipped(self.reads[number]), arbiter.reads[number])
            wiring.connect(m, wiring.flipped(self.writes[number]), arbiter.writes[number])
        wiring.connect(m, arbiter.read, memory.read)
        wiring.connect(m, arbiter.write, memory.write)
        return m


async def tick_until(ctx, ready):
    """Clock edges until one at which `ready` was high."""
    while True:
        *_, taken = await ctx.tick().sample(ready)
        if taken:
            return


async def pause(ctx, rng, share):
    while rng.random() < share:
        await ctx.tick()


async def write(ctx, bus, rng, address, words, strobes, share):
    """A burst, its address and data in any order of arrival; returns the response."""
    ctx.set(bus.awaddr, address)
    ctx.set(bus.awlen, len(words) - 1)
    ctx.set(bus.awvalid, 1)
    await tick_until(ctx, bus.awready)
    ctx.set(bus.awvalid, 0)
    for index, (word, strobe) in enumerate(zip(words, strobes, strict=True)):
        await pause(ctx, rng, share)
        ctx.set(bus.wdata, word)
        ctx.set(bus.wstrb, strobe)
        ctx.set(bus.wlast, index == len(words) - 1)
        ctx.set(bus.wvalid, 1)
        await tick_until(ctx, bus.wready)
        ctx.set(bus.wvalid, 0)
    await pause(ctx, rng, share)
    ctx.set(bus.bready, 1)
    while True:
        *_, valid, response = await ctx.tick().sample(bus.bvalid, bus.bresp)
        if valid:
            ctx.set(bus.bready, 0)
            return response


async def read(ctx, bus, rng, address, beats, share):
    """A burst; returns its words and responses."""
    ctx.set(bus.araddr, address)
    ctx.set(bus.arlen, beats - 1)
    ctx.set(bus.arvalid, 1)
    await tick_until(ctx, bus.arready)
    ctx.set(bus.arvalid, 0)
    words, responses = [], []
    while len(words) < beats:
        await pause(ctx, rng, share)
        ctx.set(bus.rready, 1)
        *_, valid, word, response, last = await ctx.tick().sample(
            bus.rvalid, bus.rdata, bus.rresp, bus.rlast
        )
        ctx.set(bus.rready, 0)
        if valid:
            words.append(word)
            responses.append(response)
            assert last == (len(words) == beats)
    return words, responses


def run(dut, master):
    """`master(number)` at each port, until all are done."""
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    for number in range(MASTERS):
        simulator.add_testbench(master(number))
    simulator.run()


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_two_masters(share):
    """Each master owns half of the memory; both write and read their halves and read outside."""
    dut = Shared()
    finished = []

    def master(number):
        async def process(ctx):
            rng = random.Random(number)
            low = number * SIZE // 2
            expected = {}
            for _ in range(60):
                beats = rng.choice([1, 1, 2, 5, 32])
                address = low + 4 * rng.randrange(SIZE // 8 - beats)
                if rng.random() < 0.1:
                    address += SIZE
                outside = address >= SIZE
                if rng.random() < 0.6:
                    words = [rng.getrandbits(32) for _ in range(beats)]
                    strobes = [rng.choice([15, 15, rng.randrange(16)]) for _ in range(beats)]
                    response = await write(
                        ctx, dut.writes[number], rng, address, words, strobes, share
                    )
                    assert response == (3 if outside else 0)
                    for index in range(0 if outside else 4 * beats):
                        if strobes[index // 4] >> index % 4 & 1:
                            byte = words[index // 4] >> 8 * (index % 4) & 255
                            expected[address + index] = byte
                else:
                    words, responses = await read(
                        ctx, dut.reads[number], rng, address, beats, share
                    )
                    assert set(responses) == {3 if outside else 0}
                    for index in range(0 if outside else 4 * beats):
                        byte = words[index // 4] >> 8 * (index % 4) & 255
                        assert byte == expected.get(address + index, 0)
            finished.append(number)

        return process

    run(dut, master)
    assert sorted(finished) == [0, 1]


def test_neither_master_waits_for_ever():
    """With both asking all the time, each gets about half of the bursts."""
    dut = Shared()
    counts = [0, 0]

    def master(number):
        async def process(ctx):
            bus = dut.reads[number]
            ctx.set(bus.rready, 1)
            ctx.set(bus.arvalid, 1)
            for _ in range(400):
                *_, taken = await ctx.tick().sample(bus.arready)
                counts[number] += taken

        return process

    run(dut, master)
    assert min(counts) > 50 and abs(counts[0] - counts[1]) <= 2
