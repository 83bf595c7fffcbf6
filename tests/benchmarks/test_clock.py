# SPDX-License-Identifier: Apache-2.0
"""Area and clock of each preset on its ECP5, placed and routed with the open tools; an hour each.

`pytest -m benchmark -s tests/benchmarks/test_clock.py -k n8` prints one preset's figures. Results
are cached: asked again, an unchanged core answers at once. `BITLOOP_SEEDS=1` tries one seed only.
"""

import os

import pytest

from bitloop.boards.bare_core import CONSTRAINTS, bare_core
from bitloop.boards.flow import route, synthesize
from bitloop.boards.targets.parts import LFE5U_25F_381, LFE5U_85F_381
from bitloop.errors import DeviceError
from bitloop.hw.config import PRESETS

SEEDS = tuple(range(1, 1 + int(os.environ.get("BITLOOP_SEEDS", "3"))))
TARGETS = {
    # Part, and clocks in MHz: asked of place and route, and to be reached.
    "n4": (LFE5U_25F_381, 130, 100),
    "n8": (LFE5U_25F_381, 115, 100),
    "n16m8": (LFE5U_85F_381, 115, 100),
    "n16": (LFE5U_85F_381, 95, 80),
}


@pytest.mark.benchmark
@pytest.mark.parametrize("name", TARGETS)
def test_the_core_reaches_its_clock(name):
    part, asked, least = TARGETS[name]
    netlist = synthesize(bare_core(PRESETS[name]), part, print)
    for block, area in netlist.blocks.items():
        print(
            f"  {name}, {block}: {area.luts:,} LUT4, {area.flip_flops:,} flip-flops, "
            f"{area.block_rams} EBR, {area.multipliers} MULT18X18D"
        )
    reached = []
    for seed in SEEDS:
        try:
            routed = route(netlist, part, CONSTRAINTS, seed, asked, print)
        except DeviceError as error:
            print(f"  seed {seed}: {error}")
            continue
        reached.append(routed.megahertz)
        cells, there = routed.used["TRELLIS_COMB"]
        print(
            f"  {part.name}, speed {part.speed}, seed {seed}: {routed.megahertz:.1f} MHz, "
            f"{cells:,} of {there:,} TRELLIS_COMB, {routed.used['TRELLIS_FF'][0]:,} flip-flops, "
            f"{routed.seconds / 60:.1f} minutes, {routed.memory_bytes / 2**30:.1f} GiB"
        )
        for segment in routed.critical_path:
            print(f"    {segment['nanoseconds']:5.2f} ns {segment['kind']:8} {segment['name']}")
    assert reached and max(reached) >= least
