# SPDX-License-Identifier: Apache-2.0
"""Boards built with the open tools: area by block, clock of three seeds, minutes and memory.

`pytest -m benchmark -s tests/benchmarks/test_boards.py -k ulx3s-25f` prints one board's figures; an
hour or more for the largest. Results are cached: asked again, an unchanged design answers at once.
`BITLOOP_SEEDS=1` tries one seed only.
"""

import os

import pytest

from bitloop.boards.build import build_board, write_build
from bitloop.boards.targets import TARGETS

SEEDS = tuple(range(1, 1 + int(os.environ.get("BITLOOP_SEEDS", "3"))))
SURROUNDINGS = ("link", "arbiter", "memory", "board")
ROWS = [(target, target.preset) for target in TARGETS.values()]
ROWS += [(TARGETS["ulx3s-85f"], "n16"), (TARGETS["ulx3s-25f"], "n8")]
CLOCKS = {("ulx3s-85f", "n16"): 75, ("ulx3s-25f", "n8"): 90}


@pytest.mark.benchmark
@pytest.mark.parametrize(
    ("target", "preset"), ROWS, ids=[f"{target.name}-{preset}" for target, preset in ROWS]
)
def test_the_board_reaches_its_clock(target, preset, tmp_path):
    clock = CLOCKS.get((target.name, preset))
    built = build_board(target, target.config(preset), print, SEEDS, clock)
    report = built.report()
    write_build(built, tmp_path)
    area, part = report["area"], target.part
    print(f"\n{target.title}, {preset}: clock {built.clocks.megahertz:g} MHz")
    for resource, used in area["used"].items():
        blocks = ", ".join(f"{name} {block[resource]:,}" for name, block in area["blocks"].items())
        print(f"  {used:,} of {area['available'][resource]:,} {resource} ({blocks})")
    for seed, megahertz in built.reached.items():
        print(f"  seed {seed}: {'does not route' if megahertz is None else f'{megahertz:.1f} MHz'}")
    print(
        f"  synthesis {report['synthesis_processor_seconds'] / 60:.1f} processor minutes, "
        f"{report['synthesis_peak_bytes'] / 2**30:.1f} GiB; place and route (seed {built.seed}) "
        f"{report['place_and_route_processor_seconds'] / 60:.1f} processor minutes, "
        f"{report['place_and_route_peak_bytes'] / 2**30:.1f} GiB; "
        f"bitstream {built.bitstream.stat().st_size:,} bytes for {part.name}"
    )
    for segment in report["critical_path"]:
        print(f"    {segment['nanoseconds']:5.2f} ns {segment['kind']:8} {segment['name']}")
    assert set(report["area"]["blocks"]) == {"columns", "core", *SURROUNDINGS}
    assert report["area"]["blocks"]["columns"]["multipliers"] >= built.config.multipliers
    assert built.meets_clock
