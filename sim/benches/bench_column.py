# SPDX-License-Identifier: Apache-2.0
"""One column against the array's model, with the array's part of the work done here."""

from __future__ import annotations

import random
from collections import deque

import cocotb
from amaranth.hdl import Module, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from bitloop.hw import streams
from bitloop.hw.array import Array
from bitloop.hw.column import (
    RESIDUAL_CYCLES,
    SWAP_CYCLE,
    Column,
    Stage,
    chain_layout,
    column_control_layout,
    column_latency,
    residual_cycle,
)
from bitloop.hw.config import CoreConfig, preset
from bitloop.hw.isa import STEP_SLOTS, Mode
from bitloop.sim.benches.array_work import ArraySession, modes_of
from bitloop.sim.benches.harness import Bench
from bitloop.sim.benches.packing import pack
from bitloop.sim.regression import bench_config, bench_seed


class StagedColumn(wiring.Component):
    """A column with a stage of its own; the stage's chain comes out as `chain_out`."""

    def __init__(self, config: CoreConfig) -> None:
        self._config = config
        super().__init__(
            {
                "chain_in": In(chain_layout(config)),
                "chain_out": Out(chain_layout(config)),
                "picks": In(data.ArrayLayout(unsigned(8), STEP_SLOTS)),
                "residual": In(8),
                "index": In(range(config.columns)),
                "output": Out(8),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.stage = stage = Stage(self._config)
        m.submodules.column = column = Column(self._config)
        m.d.comb += [
            stage.entering.eq(self.chain_in),
            self.chain_out.eq(stage.chain),
            column.entering.eq(self.chain_in.control),
            column.chain.eq(stage.chain),
            column.constants.eq(stage.constants),
            column.picks.eq(self.picks),
            column.residual.eq(self.residual),
            column.index.eq(self.index),
            self.output.eq(column.output),
        ]
        return m


def dut(preset_name: str) -> tuple[str, wiring.Component]:
    return "column_bench", StagedColumn(preset(preset_name))


def field(layout, word: int, name: str) -> int:
    """A field of a packed word."""
    return word >> layout[name].offset & ((1 << layout[name].width) - 1)


class ColumnAgent:
    """Plays an array session on one column of a random index."""

    def __init__(self, dut, session: ArraySession, index: int) -> None:
        config = session.config
        self.done = False
        self._dut = dut
        self._session = session
        self._cycles = session.cycles()
        self._index = index
        self._held = {"operands": 0, "picks": 0, "residual": 0}
        reads = SWAP_CYCLE + Array.PARAMETER_LEAD - Column.PARAMETER_CYCLES
        self._parameter_reads = deque([0] * reads)
        self._residuals = deque([0] * residual_cycle(config))
        self._chain = chain_layout(config)
        self._step = streams.array_step_layout(config)
        self._before: int | None = None
        self._link = 0
        for port, value in {"chain_in": 0, "picks": 0, "residual": 0, "index": index}.items():
            getattr(dut, port).value = value

    def drive(self) -> None:
        inputs = next(self._cycles, None)
        if inputs is None:
            self.done = True
            return
        for port in self._held:
            self._held[port] = inputs.get(port, self._held[port])
        self._parameter_reads.append(inputs["parameter_read"])
        self._residuals.append(self._held["residual"] >> (8 * self._index) & 255)
        columns = self._session.config.columns
        words = [self._held["picks"] >> (8 * columns * j) for j in range(4)]
        picks = [word >> (8 * self._index) & 255 for word in words]
        extra = self._held["picks"] >> (8 * columns * self._session.config.slices)
        self._before, self._link = (
            self._link,
            pack(
                self._chain,
                control=self._control(inputs["step"]),
                operands=self._held["operands"],
                **({"extra_picks": extra} if self._session.config.slices < 4 else {}),
                weight_read=inputs["weight_read"],
                parameter_read=self._parameter_reads.popleft(),
                load=inputs["load"],
            ),
        )
        self._dut.chain_in.value = self._link
        self._dut.picks.value = sum(byte << (8 * j) for j, byte in enumerate(picks))
        self._dut.residual.value = self._residuals.popleft()

    def _control(self, step: int) -> int:
        names = ("mac", "first", "last", "swap", "shift", "phase", "mode", "picked", "seed")
        mac, first, last, swap, shift, phase, code, picked, seed = (
            field(self._step, step, name) for name in names
        )
        mode = Mode(code)
        return pack(
            column_control_layout(),
            mac=mac,
            first=first,
            complete=mac & last,
            swap=mac & last & swap,
            shift=shift,
            phase=phase,
            load=int(seed or (mac and mode in (Mode.DEPTHWISE, Mode.MAXIMUM))),
            use_taps=int(mode in (Mode.DEPTHWISE, Mode.WINDOW)),
            wide=int(mode not in (Mode.DENSE4, Mode.DENSE2)),
            narrow=int(mode is Mode.DENSE2),
            maximum=int(mode is Mode.MAXIMUM),
            picked=picked,
            seed=seed,
        )

    def sample(self) -> None:
        if self.done:
            return
        if self._session.cycle > 1:
            assert int(self._dut.chain_out.value) == self._before, "chain_out is not chain_in"
        expected = self._session.due()
        if expected is not None:
            actual, wanted = int(self._dut.output.value), expected[self._index]
            assert actual == wanted, f"cycle {self._session.cycle}: {actual}, expected {wanted}"


@cocotb.test()
async def every_mode(dut):
    """Each mode several times, in random order, on a random column."""
    config, seed = bench_config(), bench_seed()
    rng = random.Random(seed)
    modes = modes_of(config) * 6
    rng.shuffle(modes)

    def latency(residual: bool) -> int:
        return column_latency(config) + (RESIDUAL_CYCLES if residual else 0)

    session = ArraySession(config, seed, modes, latency)
    agent = ColumnAgent(dut, session, rng.randrange(config.columns))
    bench = Bench(dut, agent)
    await bench.reset()
    await bench.run(lambda: agent.done)
