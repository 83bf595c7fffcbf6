# SPDX-License-Identifier: Apache-2.0
"""From a board's name to its bitstream and a report; the clock that a build has reached."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bitloop.errors import DeviceError
from bitloop.hw import config as hardware
from bitloop.hw.config import CoreConfig
from bitloop.sim.cache import content_key

from .constraints import HEADROOM, constraints_of
from .flow import Design, Routed, Synthesized, pack, route, synthesize, tool_versions
from .pll import PllSettings, phase_margins
from .sdram_chip import SdramChip
from .targets import find_target
from .targets.target import Target
from .tools import Say, results_folder, write_whole
from .top import APART, CELLS, TOP, emit_board


@dataclass(frozen=True)
class Built:
    """A bitstream and how it came about."""

    target: Target
    config: CoreConfig
    clocks: PllSettings
    seed: int
    verilog: str
    constraints: tuple[str, str]
    """File suffix and text."""
    synthesized: Synthesized
    routed: Routed
    bitstream: Path
    reached: dict[int, float | None]
    """MHz by seed; None where it did not route."""

    @property
    def meets_clock(self) -> bool:
        """Whether the design runs at the clock that its PLL makes."""
        return self.routed.megahertz >= self.clocks.megahertz

    def report(self) -> dict[str, Any]:
        """What `report.json` holds."""
        part, chip = self.target.part, self.target.memory
        area = dataclasses.asdict(self.synthesized.area)
        report: dict[str, Any] = {
            "board": self.target.name,
            "part": part.name,
            "package": part.package,
            "speed": part.speed,
            "preset": self.config.name,
            "config": dataclasses.asdict(self.config),
            "fingerprint": self.config.fingerprint,
            "clock_megahertz": self.clocks.megahertz,
            "fmax_megahertz": self.routed.megahertz,
            "meets_clock": self.meets_clock,
            "seed": self.seed,
            "fmax_by_seed": {str(seed): value for seed, value in self.reached.items()},
            "area": {
                "used": area,
                "available": {
                    "luts": part.luts,
                    "flip_flops": part.flip_flops,
                    "block_rams": part.block_rams,
                    "multipliers": part.multipliers,
                },
                "blocks": {
                    name: dataclasses.asdict(block)
                    for name, block in self.synthesized.blocks.items()
                },
                "sites": {
                    name: {"used": used, "available": available}
                    for name, (used, available) in self.routed.used.items()
                },
            },
            "critical_path": list(self.routed.critical_path),
            "pll": {
                "cell": self.clocks.limits.cell,
                "input_megahertz": self.clocks.input_megahertz,
                "reference": self.clocks.reference,
                "feedback": self.clocks.feedback,
                "divider": self.clocks.divider,
                "memory_delay_nanoseconds": self.clocks.delay,
            },
            "baud": self.target.baud,
            "memory_bytes": self.target.memory_bytes,
            "tools": tool_versions(part),
            "synthesis_seconds": self.synthesized.seconds,
            "synthesis_processor_seconds": self.synthesized.processor_seconds,
            "synthesis_peak_bytes": self.synthesized.memory_bytes,
            "place_and_route_seconds": self.routed.seconds,
            "place_and_route_processor_seconds": self.routed.processor_seconds,
            "place_and_route_peak_bytes": self.routed.memory_bytes,
            "bitstream_sha256": hashlib.sha256(self.bitstream.read_bytes()).hexdigest(),
        }
        if isinstance(chip, SdramChip):
            period = 1000 / self.clocks.megahertz
            report["memory_margins_nanoseconds"] = phase_margins(
                chip, self.target.part.pads, period, self.clocks.delay
            )
        return report


def build_board(
    target: Target,
    config: CoreConfig,
    say: Say,
    seeds: Sequence[int] = (1,),
    megahertz: float | None = None,
) -> Built:
    """Build with each seed and keep the fastest; `megahertz` is the clock to run at, the board's
    own if not given.

    Raises `DeviceError` if the core or the clock is not for the board, if a tool fails, or if no
    seed routes. A design slower than its clock is returned all the same: see `meets_clock`.
    """
    clocks = target.clocks(megahertz)
    say("generating Verilog")
    verilog = emit_board(target, config, clocks)
    constraints = constraints_of(target)
    synthesized = synthesize(Design(verilog, TOP, APART, CELLS), target.part, say)
    _check_fits(target, config, synthesized)
    routings: dict[int, Routed] = {}
    reached: dict[int, float | None] = {}
    failure: DeviceError | None = None
    for seed in seeds:
        try:
            asked = HEADROOM * clocks.megahertz
            routed = route(synthesized, target.part, constraints, seed, asked, say)
        except DeviceError as error:
            failure, reached[seed] = error, None
            continue
        routings[seed], reached[seed] = routed, routed.megahertz
        say(f"seed {seed}: {routed.megahertz:.1f} MHz")
    if not routings:
        assert failure is not None
        raise failure
    seed = max(routings, key=lambda number: routings[number].megahertz)
    routed = routings[seed]
    bitstream = pack(routed, target.part, say)
    built = Built(
        target,
        config,
        clocks,
        seed,
        verilog,
        constraints,
        synthesized,
        routed,
        bitstream,
        reached,
    )
    if built.meets_clock:
        write_whole(_record(target, config), json.dumps({"megahertz": clocks.megahertz}))
    return built


def write_build(built: Built, folder: Path) -> dict[str, Path]:
    """Write Verilog, constraints, logs, bitstream and `report.json` of a build into `folder`;
    returns their paths by what they are."""
    folder.mkdir(parents=True, exist_ok=True)
    suffix, text = built.constraints
    name = built.target.name
    paths = {
        "Verilog": folder / f"{name}.v",
        "constraints": folder / f"{name}.{suffix}",
        "synthesis log": folder / "synthesis.log",
        "place and route log": folder / "place_and_route.log",
        "bitstream": folder / f"{name}{built.bitstream.suffix}",
        "report": folder / "report.json",
    }
    paths["Verilog"].write_text(built.verilog)
    paths["constraints"].write_text(text)
    shutil.copyfile(built.synthesized.path.with_name("log"), paths["synthesis log"])
    shutil.copyfile(built.routed.folder / "log", paths["place and route log"])
    shutil.copyfile(built.bitstream, paths["bitstream"])
    write_whole(paths["report"], json.dumps(built.report(), indent=2) + "\n")
    return paths


def achieved_megahertz(board: str, config: CoreConfig | None = None) -> float | None:
    """The clock of this version's last build of a board that met it, with the board's own core or
    `config`; None if there is no such build. Raises `DeviceError` for an unknown board."""
    target = find_target(board)
    path = _record(target, config or target.config())
    if not path.is_file():
        return None
    return float(json.loads(path.read_text())["megahertz"])


def flash(target: Target, bitstream: Path) -> None:
    """Load a bitstream into the board's FPGA with openFPGALoader; raises `DeviceError` if it is not
    installed or fails."""
    program = shutil.which("openFPGALoader")
    if program is None:
        raise DeviceError(
            "openFPGALoader is not on PATH; install it, or load "
            f"{bitstream} with another programmer"
        )
    command = [program, *target.programmer, str(bitstream)]
    result = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if result.returncode:
        output = (result.stdout + result.stderr).strip().splitlines()
        raise DeviceError(
            f"openFPGALoader failed ({' '.join(command)}):\n" + "\n".join(output[-10:])
        )


def _check_fits(target: Target, config: CoreConfig, synthesized: Synthesized) -> None:
    area, part = synthesized.area, target.part
    for what, used, available in (
        ("LUT4", area.luts, part.luts),
        ("flip-flops", area.flip_flops, part.flip_flops),
        ("block RAMs", area.block_rams, part.block_rams),
        ("multipliers", area.multipliers, part.multipliers),
    ):
        if used > available:
            raise DeviceError(
                f"{config.name} does not fit {target.name}: {used:,} {what}, and {part.name} has "
                f"{available:,}; choose a smaller preset"
            )


def _record(target: Target, config: CoreConfig) -> Path:
    key = content_key(target.name, config.fingerprint, _sources())
    return results_folder() / f"built-{key}.json"


@cache
def _sources() -> str:
    """Hash of all that a bitstream is made from: what describes hardware and boards."""
    folders = Path(hardware.__file__).parent, Path(__file__).parent
    files = [path for folder in folders for path in folder.rglob("*.py")]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.read_bytes())
    return digest.hexdigest()
