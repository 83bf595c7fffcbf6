# SPDX-License-Identifier: Apache-2.0
"""Random layers, compiled and run on the RTL, compared bit for bit.

Three independent computations must agree: the graph executor, the instruction-level reference
device, and the core. Memory latency, data rate and pauses are random too. A failure names what
reproduces it, e.g. `python -m bitloop.sim.random_layers --preset n4 --case conv 4 123`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitloop.binary import Binary
from bitloop.compile import compile_graph
from bitloop.devices.interface import MemoryModel, Profile
from bitloop.devices.reference import ReferenceDevice
from bitloop.errors import BitloopError, CompileError
from bitloop.graph.execute import execute
from bitloop.graph.ir import Graph
from bitloop.hw.config import CoreConfig, preset

from .build import Progress
from .device import VerilatorDevice
from .random_graphs import KINDS, TABLE_KINDS, WEIGHT_BITS, random_graph, random_inputs
from .simulation import MEMORY_BASE

Codes = NDArray[np.uint8]

MOST_REFUSED = 0.02
"""Share of random layers that the compiler may refuse (or one): more would leave too much untried.
Of the first 720 it refuses none for n4, n8 and n16."""


@dataclass(frozen=True)
class LayerResult:
    """What became of one random layer or network."""

    number: int
    """Seed of the case."""
    kind: str
    bits: int
    preset: str
    passed: bool
    refused: bool
    """The compiler refused it: neither passed nor failed."""
    message: str
    cycles: int = 0

    def __str__(self) -> str:
        verdict = "passed" if self.passed else "refused" if self.refused else "FAILED"
        case = f"random layer {self.kind} {self.bits} {self.number} (preset {self.preset})"
        return f"{case}: {verdict}{', ' * bool(self.message)}{self.message}"


def cases(
    first: int,
    count: int,
    kinds: tuple[str, ...] = KINDS,
    bits: tuple[int, ...] = WEIGHT_BITS,
) -> Iterator[tuple[int, str, int]]:
    """(number, kind, width): kinds and then widths take turns, so that len(kinds) * len(bits) cases
    in a row cover every pair."""
    for number in range(first, first + count):
        yield number, kinds[number % len(kinds)], bits[number // len(kinds) % len(bits)]


def too_many(refused: int, count: int) -> str:
    """What is wrong with so many refused layers of `count`, empty if nothing is."""
    if refused <= max(1, MOST_REFUSED * count):
        return ""
    return f"{refused} of {count} random layers refused: more than {MOST_REFUSED:.0%} were not run"


def run_random_layers(
    config: CoreConfig,
    first: int = 0,
    count: int = 100,
    kinds: Iterable[str] = KINDS,
    bits: Iterable[int] = WEIGHT_BITS,
    on_result: Callable[[LayerResult], None] | None = None,
    progress: Progress | None = None,
    waves: Path | None = None,
) -> list[LayerResult]:
    """Run cases `first` to `first + count - 1`, see `cases`."""
    results = []
    for number, kind, width in cases(first, count, tuple(kinds), tuple(bits)):
        result = run_case(config, number, kind, width, progress, waves)
        results.append(result)
        if on_result is not None:
            on_result(result)
    return results


def run_case(
    config: CoreConfig,
    number: int,
    kind: str,
    bits: int,
    progress: Progress | None = None,
    waves: Path | None = None,
) -> LayerResult:
    """One case; never raises for a layer that fails."""
    graph = random_graph(number, config.lanes, kind, bits, config.multiplier_bits)
    passed = refused = False
    message, cycles = "", 0
    try:
        binary = compile_graph(graph, config)
        cycles = check_graph(graph, binary, number, progress, waves).cycles
        passed = True
    except CompileError as error:
        refused, message = True, str(error)
    except (Mismatch, BitloopError) as error:
        message = str(error)
    except Exception as error:  # a crash of the tools under test is a failure with a name as well
        message = f"{type(error).__name__}: {error}"
    return LayerResult(number, kind, bits, config.name, passed, refused, message, cycles)


class Mismatch(Exception):
    """Two of the computations disagree, or the counters do not add up."""


def check_graph(
    graph: Graph,
    binary: Binary,
    seed: int,
    progress: Progress | None = None,
    waves: Path | None = None,
) -> Profile:
    """Run random inputs three ways and compare; the RTL's profile. Raises `Mismatch`."""
    rng = np.random.default_rng((seed, 2))
    codes = random_inputs(graph, seed)
    golden = to_memory(graph, execute(graph, codes))
    inputs = to_memory(graph, codes)

    reference = ReferenceDevice()
    reference.load(binary)
    outputs, _ = reference.run(inputs)
    compare("reference device", golden, outputs)

    memory = MemoryModel(int(rng.choice([1, 3, 40, 120])), int(rng.choice([1, 3, 4, 4, 16])))
    device = VerilatorDevice(
        binary.config, memory, waves=waves, progress=progress, cycle_limit=20_000_000
    )
    try:
        device.load(binary)
        assert device.simulation is not None
        if rng.random() < 0.4:
            device.simulation.set_pauses(float(rng.uniform(0.05, 0.6)), seed)
        outputs, profile = device.run(inputs)
        image = device.simulation.read_memory(MEMORY_BASE, binary.program_bytes)
    finally:
        device.close()
    compare("RTL", golden, outputs)
    if image != binary.image():
        raise Mismatch("the core wrote into its program window")
    if sum(profile.causes.values()) != profile.cycles:
        raise Mismatch(f"causes {profile.causes} do not sum to {profile.cycles} cycles")
    if min(profile.head, profile.tail, *profile.layer_cycles) < 0:
        raise Mismatch(f"negative times in {profile}")
    return profile


def to_memory(graph: Graph, tensors: Mapping[str, Codes]) -> dict[str, Codes]:
    """Unsigned codes as the model's own codes in memory (int8 tensors: sign bit flipped)."""
    return {
        name: codes ^ np.uint8(0x80) if graph.tensors[name].source_dtype == "int8" else codes
        for name, codes in tensors.items()
    }


def compare(who: str, expected: Mapping[str, Codes], got: Mapping[str, Codes]) -> None:
    """Raises `Mismatch` naming the tensor, how many codes differ and the first of them."""
    for name, want in expected.items():
        have = got[name]
        if have.shape != want.shape:
            raise Mismatch(f"{who}: {name} has shape {have.shape}, not {want.shape}")
        wrong = np.argwhere(have != want)
        if len(wrong):
            image, y, x, c = map(int, wrong[0])
            raise Mismatch(
                f"{who}: {len(wrong)} of {want.size} codes of {name} {want.shape[1:]} differ, "
                f"first image {image}, row {y}, column {x}, channel {c}: "
                f"{have[image, y, x, c]}, not {want[image, y, x, c]}"
            )


def main() -> int:
    """Command line; prints failures and a table, returns 1 if a layer failed or too many were
    refused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="n4")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--kind", action="append", choices=(*KINDS, *TABLE_KINDS))
    parser.add_argument("--bits", action="append", type=int, choices=WEIGHT_BITS)
    parser.add_argument("--case", nargs=3, metavar=("KIND", "BITS", "SEED"))
    parser.add_argument("--waves", type=Path)
    options = parser.parse_args()
    if options.case:
        options.kind, options.bits = [options.case[0]], [int(options.case[1])]
        options.first, options.count = int(options.case[2]), 1
    began = time.monotonic()
    counts: Counter[str] = Counter()

    def show(result: LayerResult) -> None:
        counts["passed" if result.passed else "refused" if result.refused else "FAILED"] += 1
        if not result.passed:
            print(result, flush=True)

    results = run_random_layers(
        preset(options.preset),
        options.first,
        options.count,
        options.kind or KINDS,
        options.bits or WEIGHT_BITS,
        show,
        lambda text, done: print(f"\r{text} {done:4.0%}", end="\n" * (done == 1), flush=True),
        options.waves,
    )
    cycles = sum(result.cycles for result in results)
    print(f"{dict(counts)}, {cycles} cycles, {time.monotonic() - began:.1f} s")
    untried = too_many(counts["refused"], len(results))
    if untried:
        print(untried)
    return 1 if counts["FAILED"] or untried else 0


if __name__ == "__main__":
    sys.exit(main())
