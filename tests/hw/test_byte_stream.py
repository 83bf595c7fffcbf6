# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random

import pytest
from amaranth.hdl import Module
from amaranth.lib import data, wiring
from amaranth.lib.wiring import Out
from amaranth.sim import Simulator
from hypothesis import given, settings
from hypothesis import strategies as st

from bitloop.hw.byte_stream import ByteExtractor, SegmentWalker, WordTagger, rotated
from bitloop.hw.config import preset
from bitloop.hw.fifo import Fifo


class Unpack(wiring.Component):
    """Walker to extractor; the bytes given come out turned to start in lane 0."""

    def __init__(self, data_bits: int) -> None:
        self.config = preset("n4").replace(data_bits=data_bits)
        self.walker = SegmentWalker(self.config)
        self.tagger = WordTagger(self.config)
        self.extractor = ByteExtractor()
        super().__init__({"turned": Out(data.ArrayLayout(8, 4))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.walker = self.walker
        m.submodules.tagger = self.tagger
        m.submodules.extractor = extractor = self.extractor
        m.submodules.segments = segments = Fifo(self.walker.segment.payload.shape(), 8)
        wiring.connect(m, self.walker.segment, segments.sink)
        wiring.connect(m, segments.source, self.tagger.segment)
        wiring.connect(m, self.tagger.word, extractor.word)
        given = extractor.given
        m.d.comb += self.turned.eq(rotated(m, given.lanes, given.position_first))
        return m


@pytest.mark.parametrize("data_bits", [32, 128])
@settings(max_examples=25, deadline=None)
@given(
    offset=st.integers(0, 40),
    run=st.integers(1, 40),
    stride=st.integers(0, 50),
    segments=st.integers(1, 6),
    seed=st.integers(0, 999),
)
def test_every_byte_of_every_run_once(
    data_bits: int, offset: int, run: int, stride: int, segments: int, seed: int
) -> None:
    rng = random.Random(seed)
    memory = rng.randbytes(512)
    expected = b"".join(memory[offset + s * stride :][:run] for s in range(segments))
    dut = Unpack(data_bits)
    step = data_bits // 8
    got = bytearray()
    finals: list[int] = []

    async def bench(ctx) -> None:
        walk, request, beat = dut.walker.walk, dut.walker.request, dut.tagger.beat
        given = dut.extractor.given
        fields = {"offset": offset, "bytes": run, "stride": stride, "segments": segments}
        ctx.set(walk.payload, fields)
        ctx.set(walk.valid, 1)
        await ctx.tick()
        ctx.set(walk.valid, 0)
        beats: list[int] = []  # addresses of the beats that answer the requests
        for _ in range(3000):
            ready, asking = rng.random() < 0.7, rng.random() < 0.5
            beating = bool(beats) and rng.random() < 0.7
            wanted = rng.randint(1, 4)
            ctx.set(dut.extractor.want, wanted - 1)
            ctx.set(dut.extractor.ready, ready)
            ctx.set(request.ready, asking)
            ctx.set(beat.valid, beating)
            if beating:
                word = int.from_bytes(memory[beats[0] : beats[0] + step], "little")
                ctx.set(beat.payload, word)
                if ctx.get(beat.ready):
                    beats.pop(0)
            if asking and ctx.get(request.valid):
                first = ctx.get(request.payload.offset)
                last = first + ctx.get(request.payload.bytes)
                beats.extend(range(first // step * step, last, step))
            if ctx.get(given.valid) and ready:
                count = ctx.get(given.more) + 1
                assert count <= wanted
                assert ctx.get(given.complete) == (count == wanted)
                end = ctx.get(given.position_first) + count - 1
                assert ctx.get(given.position_last) == end % 4
                got.extend(ctx.get(dut.turned[i]) for i in range(count))
                finals.append(ctx.get(given.final))
                # Fewer bytes than wanted only where a run ends.
                assert count == wanted or len(got) % run == 0
                if finals[-1]:
                    return
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert bytes(got) == expected
    assert finals == [0] * (len(finals) - 1) + [1]
