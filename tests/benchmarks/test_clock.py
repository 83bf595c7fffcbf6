# SPDX-License-Identifier: Apache-2.0
"""Area and clock of each preset on its ECP5, placed and routed with the open tools; an hour each.

`pytest -m benchmark -s tests/benchmarks/test_clock.py -k n8` prints one preset's figures. Results
are cached: asked again, an unchanged core answers at once.
"""

import pytest

from bitloop.boards.place_and_route import (
    LFE5U_25F,
    LFE5U_85F,
    WRAPPER,
    place_and_route,
    synthesize,
    wrapped,
)
from bitloop.errors import DeviceError
from bitloop.hw.config import PRESETS

SEEDS = (1, 2, 3)
TARGETS = {
    # Device, clock asked of place and route in MHz, and clock it must reach.
    "n4": (LFE5U_25F, 130, 100),
    "n8": (LFE5U_25F, 130, 100),
    "n16m8": (LFE5U_85F, 130, 100),
    "n16": (LFE5U_85F, 130, 80),
}


@pytest.mark.benchmark
@pytest.mark.parametrize("name", TARGETS)
def test_the_core_reaches_its_clock(name):
    device, asked, least = TARGETS[name]
    netlist = synthesize(wrapped(PRESETS[name]), WRAPPER)
    print(
        f"\n{name}: {netlist.luts:,} LUT4, {netlist.flip_flops:,} flip-flops, "
        f"{netlist.block_rams} EBR, {netlist.multipliers} MULT18X18D; "
        f"synthesized in {netlist.seconds / 60:.1f} minutes"
    )
    reached = []
    for seed in SEEDS:
        try:
            routing = place_and_route(netlist, device, seed, asked)
        except DeviceError as error:
            print(f"  seed {seed}: {error}")
            continue
        reached.append(routing.megahertz)
        print(
            f"  {device.name}, speed {device.speed}, seed {seed}: {routing.megahertz:.1f} MHz, "
            f"{routing.logic_cells:,} of {device.logic_cells:,} TRELLIS_COMB, "
            f"{routing.flip_flops:,} flip-flops, {routing.seconds / 60:.1f} minutes, "
            f"{routing.memory_bytes / 2**30:.1f} GiB"
        )
        for segment in routing.critical_path:
            print(f"    {segment.nanoseconds:5.2f} ns {segment.kind:8} {segment.name}")
    assert reached and max(reached) >= least
