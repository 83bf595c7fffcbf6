# SPDX-License-Identifier: Apache-2.0
"""LUT4, block RAMs and multipliers of the whole core on ECP5, as place and route
gets it; minutes a preset.

`pytest -m benchmark -s tests/benchmarks/test_area.py -k n4` prints one preset's figures.
"""

import pytest

from bitloop.boards.bare_core import bare_core
from bitloop.boards.flow import Area, synthesize
from bitloop.boards.targets.parts import LFE5U_25F_381
from bitloop.hw.config import PRESETS

LIMITS = {
    # LUT4, block RAMs, multipliers: of an LFE5U-85F for n16 and n16m8, of an LFE5U-25F for n8
    "n4": (24288, 56, 28),
    "n8": (int(24288 * 0.92), 50, 28),
    "n16m8": (int(83640 * 0.75), 208, 156),
    "n16": (int(83640 * 0.75), 208, 156),
}


@pytest.mark.benchmark
@pytest.mark.parametrize("name", PRESETS)
def test_the_core_fits_its_device(name):
    blocks = synthesize(bare_core(PRESETS[name]), LFE5U_25F_381, print).blocks
    area = Area.total(blocks[block] for block in ("columns", "core"))
    print(
        f"\n{name}: {area.luts:,} LUT4, {area.flip_flops:,} flip-flops, {area.block_rams} EBR, "
        f"{area.multipliers} MULT18X18D"
    )
    most_luts, most_rams, most_multipliers = LIMITS[name]
    assert area.luts <= most_luts
    assert area.block_rams <= most_rams
    assert area.multipliers <= most_multipliers
