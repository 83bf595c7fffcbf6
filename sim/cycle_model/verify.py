# SPDX-License-Identifier: Apache-2.0
"""The cycle model against the RTL, on random layers and random programs with random memories.

`python -m bitloop.sim.cycle_model.verify --preset n4 --count 100` prints every difference, with
what reproduces it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bitloop.binary import Binary
from bitloop.compile import compile_graph
from bitloop.devices.driver import Driver, MemoryMap
from bitloop.devices.interface import MemoryModel, Profile
from bitloop.errors import CompileError
from bitloop.hw.config import CoreConfig, preset

from ..random_graphs import KINDS, random_graph
from ..random_layers import cases
from ..random_programs import random_program
from ..simulation import MEMORY_BASE, Simulation
from .device import ModelDevice

CYCLE_LIMIT = 50_000_000


@dataclass(frozen=True)
class Comparison:
    """One program timed twice."""

    name: str
    memory: MemoryModel
    outstanding: int
    rtl: Profile
    model: Profile

    @property
    def equal(self) -> bool:
        """In the total, every cause and every mark."""
        return self.rtl == self.model

    def __str__(self) -> str:
        where = f"{self.name}, {self.memory}, {self.outstanding} bursts"
        return where if self.equal else f"{where}\n  RTL   {self.rtl}\n  model {self.model}"


def random_memory(seed: int) -> tuple[MemoryModel, int]:
    """Latency, bytes a cycle and outstanding bursts of a seed."""
    rng = np.random.default_rng((seed, 4))
    latency = int(rng.choice([1, 2, 3, 7, 40, 40, 120, 200]))
    rate = int(rng.choice([1, 2, 3, 4, 4, 4, 5, 8, 16]))
    return MemoryModel(latency, rate), int(rng.choice([1, 2, 4, 8, 8, 16]))


def compare(binary: Binary, memory: MemoryModel, outstanding: int) -> Comparison:
    """Runs one inference on both."""
    size = MemoryMap.of(binary, MEMORY_BASE).end - MEMORY_BASE
    simulation = Simulation(binary.config, size, memory, outstanding=outstanding)
    driver = Driver(simulation, binary.config, CYCLE_LIMIT)
    driver.load(binary, MEMORY_BASE)
    _, rtl = driver.run({s.name: np.zeros((1, *s.shape), np.uint8) for s in binary.input_specs})
    simulation.close()
    device = ModelDevice(binary.config, memory, outstanding=outstanding, cycle_limit=CYCLE_LIMIT)
    device.load(binary)
    model = device.profile()
    device.close()
    return Comparison(binary.name, memory, outstanding, rtl, model)


def compare_random_layers(
    config: CoreConfig, first: int, count: int, kinds: tuple[str, ...] = KINDS
) -> Iterator[Comparison]:
    """Of the cases `random_layers` has, without those the compiler refuses."""
    for number, kind, bits in cases(first, count, kinds):
        graph = random_graph(number, config.lanes, kind, bits, config.multiplier_bits)
        try:
            binary = compile_graph(graph, config)
        except CompileError:
            continue
        yield compare(binary, *random_memory(number))


def compare_random_programs(config: CoreConfig, first: int, count: int) -> Iterator[Comparison]:
    """Of the instruction streams of `random_programs`."""
    for number in range(first, first + count):
        yield compare(random_program(number, config), *random_memory(number))


def main() -> int:
    """Command line; returns 1 if a program differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="n4")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--programs", action="store_true", help="random instruction streams")
    parser.add_argument("--kind", action="append", choices=KINDS)
    options = parser.parse_args()
    settings = dict(setting.split("=") for setting in options.set)
    config = preset(options.preset).replace(**{k: int(v) for k, v in settings.items()})
    if options.programs:
        found = compare_random_programs(config, options.first, options.count)
    else:
        kinds = tuple(options.kind or KINDS)
        found = compare_random_layers(config, options.first, options.count, kinds)
    equal = cycles = total = 0
    for comparison in found:
        total += 1
        equal += comparison.equal
        cycles += comparison.rtl.cycles
        if not comparison.equal:
            print(comparison, flush=True)
    print(f"{equal} of {total} equal, {cycles} cycles")
    return 0 if equal == total else 1


if __name__ == "__main__":
    sys.exit(main())
