# SPDX-License-Identifier: Apache-2.0
"""The array against its model: every mode, groups changing as early as allowed, loads beside."""

from __future__ import annotations

import random
from collections import deque

import cocotb
import numpy as np
from amaranth.lib import wiring
from .array_model import ArrayModel, Constants, Work, modes_of, random_work, tap_weights
from cocotb.triggers import FallingEdge
from .packing import pack, pack_bytes, start

from bitloop.hw import streams
from bitloop.hw.array import Array
from bitloop.hw.config import CoreConfig, preset
from bitloop.hw.isa import Mode
from bitloop.sim.regression import bench_config, bench_seed

ROWS = range(16)
"""Weight rows the tests use."""
INPUTS = ("load", "weight_read", "parameter_read", "step", "operands", "picks", "residual")


def dut(preset_name: str) -> tuple[str, wiring.Component]:
    return "array_bench", Array(preset(preset_name))


def constant_writes(constants: Constants) -> list[int]:
    """Load-bus data of each constant word."""
    values = vars(constants)
    return [
        pack(layout, **{name: values[name] for name, _ in layout if name in values})
        for layout in streams.CONSTANT_WORDS
    ]


class TestBench:
    """Drives the array's ports by cycle and compares outputs in order and in time."""

    __test__ = False

    def __init__(self, dut, config: CoreConfig, seed: int) -> None:
        self.dut = dut
        self.config = config
        self.random = random.Random(seed)
        self.generator = np.random.default_rng(seed)
        self.model = ArrayModel(config)
        self.array = Array(config)
        self.loads: deque[int] = deque()
        self.expected: deque[tuple[int, list[int]]] = deque()
        self.cycle = 0
        self.outputs = 0

    async def start(self) -> None:
        await start(self.dut, **dict.fromkeys(INPUTS, 0))

    async def tick(self, **inputs: int) -> None:
        """Check the outputs of this cycle, drive its inputs, and go on to the next."""
        self._check()
        if "load" not in inputs and self.loads and self.random.random() < 0.8:
            inputs["load"] = self.loads.popleft()
        for name in INPUTS:
            default = 0 if name in ("load", "weight_read", "parameter_read", "step") else None
            if (value := inputs.get(name, default)) is not None:
                getattr(self.dut, name).value = value
        await FallingEdge(self.dut.clk)
        self.cycle += 1

    def _check(self) -> None:
        valid = int(self.dut.output_valid.value)
        due = bool(self.expected) and self.expected[0][0] == self.cycle
        assert valid == due, f"cycle {self.cycle}: output_valid is {valid}, expected {due}"
        if due:
            _, expected = self.expected.popleft()
            actual = list(int(self.dut.output.value).to_bytes(self.config.columns, "little"))
            assert actual == expected, f"cycle {self.cycle}: output {actual}, expected {expected}"
            self.outputs += 1

    def load(self, target: streams.LoadTarget, column: int, address: int, chunk: int, data: int):
        layout = streams.load_write_layout(self.config)
        word = pack(
            layout,
            valid=1,
            target=target,
            column=column,
            address=address,
            chunk=chunk,
            data=data,
        )
        self.loads.append(word)

    def load_weights(self, column: int, row: int, weights: np.ndarray) -> None:
        self.model.weights[column, row] = weights
        for chunk in range(self.config.lanes // 4):
            data = pack_bytes(weights[4 * chunk : 4 * chunk + 4])
            self.load(streams.LoadTarget.WEIGHTS, column, row, chunk, data)

    def load_work(self, work: Work, parameter_base: int, rows: range) -> None:
        """Queue the weights and parameters of an instruction."""
        config = self.config
        for row in rows:
            weights = tap_weights(self.generator, config, work.mode, row % 2, (config.columns,))
            for column in range(config.columns):
                self.load_weights(column, row, weights[column])
        for group, channels in enumerate(work.channels):
            for column, channel in enumerate(channels):
                for i, word in enumerate(channel.words(config)):
                    address = parameter_base + group * config.parameter_words_per_group + i
                    self.load(streams.LoadTarget.PARAMETERS, column, address, 0, word)

    async def drain(self) -> None:
        while self.loads or self.expected:
            await self.tick()

    async def run(self, work: Work, parameter_base: int, following: tuple | None) -> None:
        """Constants, then the steps, while the `following` instruction's weights and parameters
        (arguments of `load_work`) stream in. Outputs of the last steps may still be due."""
        config = self.config
        await self.drain()
        self.model.constants, self.model.mode = work.constants, work.mode
        for i, data in enumerate(constant_writes(work.constants)):
            self.load(streams.LoadTarget.CONSTANTS, 0, i, 0, data)
        await self.drain()
        if following is not None:
            self.load_work(*following)
        lead = Array.WEIGHT_LEAD
        for cycle in range(-lead, work.cycles):
            inputs: dict[str, int] = {}
            if cycle + lead in work.steps:
                row = work.steps[cycle + lead][1].row
                inputs["weight_read"] = pack(streams.weight_read_layout(), enable=1, row=row)
            if cycle in work.parameter_reads:
                group, word = work.parameter_reads[cycle]
                address = parameter_base + group * config.parameter_words_per_group + word
                inputs["parameter_read"] = pack(
                    streams.parameter_read_layout(),
                    enable=1,
                    first=int(word == 0),
                    address=address,
                )
            if cycle in work.steps:
                group, step = work.steps[cycle]
                inputs |= self._step_inputs(work, step)
                outputs = self.model.step(step, work.channels[group])
                if outputs is not None:
                    self.expected.append((self.cycle + self.array.latency, outputs))
            await self.tick(**inputs)

    def _step_inputs(self, work: Work, step) -> dict[str, int]:
        slices = self.config.slices
        words_of = {Mode.DENSE2: range(4), Mode.DENSE4: [k * 2 // slices for k in range(slices)]}
        words = [step.words[k] for k in words_of.get(work.mode, [0] * slices)]
        control = pack(
            streams.array_step_layout(self.config),
            mac=step.mac,
            first=step.first,
            last=step.last,
            swap=step.swap,
            shift=step.shift,
            phase=step.phase,
            mode=work.mode,
            picked=step.picked,
        )
        inputs = {
            "step": control,
            "operands": pack_bytes(np.concatenate(words)),
            "picks": pack_bytes(step.picks.reshape(-1)),
        }
        if step.last:
            inputs["residual"] = pack_bytes(step.residual)
        return inputs


async def run_modes(dut, modes: list[Mode], seed: int) -> None:
    config = bench_config()
    bench = TestBench(dut, config, seed)
    await bench.start()
    half = len(ROWS) // 2
    works = []
    for i, mode in enumerate(modes):
        rows = ROWS[:half] if i % 2 else ROWS[half:]
        base = (i % 2) * 64
        lead = Array.PARAMETER_LEAD
        works.append((random_work(bench.random, config, mode, rows, lead), base, rows))
    bench.load_work(*works[0])
    for i, (work, base, _) in enumerate(works):
        await bench.run(work, base, works[i + 1] if i + 1 < len(works) else None)
    await bench.drain()
    assert bench.outputs == sum(sum(s.last for _, s in w.steps.values()) for w, _, _ in works)


@cocotb.test()
async def every_mode(dut):
    """Each mode several times, in random order."""
    seed = bench_seed()
    modes = modes_of(bench_config()) * 6
    random.Random(seed).shuffle(modes)
    await run_modes(dut, modes, seed)
