# SPDX-License-Identifier: Apache-2.0
"""`bitloop build`: a board's bitstream, or the core packaged for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ..errors import DeviceError
from .common import (
    DEFAULT_PRESET,
    INTERRUPTED,
    JsonOption,
    SetOption,
    configure,
    print_json,
    print_table,
    progress,
)

if TYPE_CHECKING:
    from bitloop.boards.build import Built
    from bitloop.hw.config import CoreConfig

NAME = "build"

TERMINATED = 143
"""Exit status where SIGTERM came."""

GENERIC = "generic-axi"
"""The bare core with AXI ports, for boards and tools of others."""


def command(
    board: Annotated[
        str | None, typer.Option("--board", metavar="NAME", help="Board; --list shows them.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder to write.")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option("--preset", metavar="NAME", help="Core preset; default the board's own."),
    ] = None,
    settings: SetOption = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Of placement; the first with --seeds.")
    ] = 1,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, metavar="K", help="Try K seeds, keep the fastest.")
    ] = 1,
    megahertz: Annotated[
        float | None,
        typer.Option("--megahertz", min=10, max=200, help="Clock to run at; default the board's."),
    ] = None,
    flash: Annotated[
        bool, typer.Option("--flash", help="Load the bitstream with openFPGALoader.")
    ] = False,
    listing: Annotated[bool, typer.Option("--list", help="List the boards.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Build a board's bitstream, with core, link and memory, or package the core.

    Synthesizes, places and routes with open tools, and writes bitstream, Verilog, constraints, logs
    and report.json. `--board generic-axi` packages the core alone.

    Results are cached by content. Logs and constraints of failed builds stay in the cache.

    Example: bitloop build --board ulx3s-85f --seeds 3 -o build/ulx3s
    """
    if listing:
        _list_boards(as_json)
        return
    if board is None or output is None:
        raise DeviceError("build needs --board NAME and -o DIR; --list shows the boards")
    if output.exists() and not output.is_dir():
        raise DeviceError(f"--output {output}: is a file; name a folder")
    if board == GENERIC:
        if flash or seeds > 1 or megahertz is not None:
            raise DeviceError(
                f"--flash, --seeds and --megahertz are for bitstreams: {GENERIC} is Verilog and "
                "files around it"
            )
        _package(configure(preset or DEFAULT_PRESET, settings), output, as_json)
        return
    from bitloop.boards.build import build_board, write_build
    from bitloop.boards.build import flash as load
    from bitloop.boards.targets import TARGETS

    if board not in TARGETS:
        raise DeviceError(f"unknown board {board!r}; known: {', '.join([*TARGETS, GENERIC])}")
    target = TARGETS[board]
    config = configure(preset or target.preset, settings)
    try:
        with progress(f"building {target.title} with {config.name}") as say:
            built = build_board(target, config, say, range(seed, seed + seeds), megahertz)
    except KeyboardInterrupt as interruption:
        from bitloop.boards.tools import Terminated, results_folder

        told = isinstance(interruption, Terminated)
        what = "told to end" if told else "interrupted"
        typer.echo(
            f"bitloop: {what}; steps that were finished, and the logs, are in "
            f"{results_folder()}: the same command goes on from there",
            err=True,
        )
        raise typer.Exit(TERMINATED if told else INTERRUPTED) from None
    written = write_build(built, output)
    if as_json:
        print_json(built.report())
    else:
        _show(built, written)
    if not built.meets_clock:
        raise DeviceError(
            f"{target.name} with {config.name} reaches {built.routed.megahertz:.1f} MHz, less than "
            f"its clock of {built.clocks.megahertz:g} MHz: the bitstream in {output} may fail. Try "
            f"other seeds (--seeds 5) or a slower clock (--megahertz)"
        )
    if flash:
        load(target, written["bitstream"])
        typer.echo(f"loaded {written['bitstream']}")


def _package(config: CoreConfig, output: Path, as_json: bool) -> None:
    from bitloop.boards.generic_axi import write_package

    with progress(f"packaging {config.name}"):
        paths = write_package(config, output)
    if as_json:
        print_json({"preset": config.name, "written": [str(path) for path in paths]})
        return
    for path in paths:
        typer.echo(f"wrote {path}")


def _list_boards(as_json: bool) -> None:
    from bitloop.boards.build import achieved_megahertz
    from bitloop.boards.targets import TARGETS

    rows = [
        {
            "board": target.name,
            "title": target.title,
            "part": target.part.name,
            "preset": target.preset,
            "clock_megahertz": round(target.clocks().megahertz, 3),
            "memory_bytes": target.memory_bytes,
            "built_megahertz": achieved_megahertz(target.name),
        }
        for target in TARGETS.values()
    ]
    if as_json:
        print_json(rows)
        return
    table = Table("board", "", "part", "preset", "MHz", "memory", "built")
    for row in rows:
        size = int(str(row["memory_bytes"]))
        memory = f"{size >> 20} MiB" if size >> 20 else f"{size >> 10} KiB on the chip"
        built = "yes" if row["built_megahertz"] else "no"
        values = (row["board"], row["title"], row["part"], row["preset"])
        table.add_row(*map(str, values), f"{row['clock_megahertz']:g}", memory, built)
    table.add_row(GENERIC, "the core alone, with AXI ports", "any", "any", "", "", "")
    print_table(table)


def _show(built: Built, written: dict[str, Path]) -> None:
    part = built.target.part
    table = Table("", "LUT4", "flip-flops", "block RAM", "multipliers")
    for name, area in built.synthesized.blocks.items():
        counts = (area.luts, area.flip_flops, area.block_rams, area.multipliers)
        table.add_row(name, *(f"{count:,}" for count in counts))
    total = built.synthesized.area
    counts = (total.luts, total.flip_flops, total.block_rams, total.multipliers)
    table.add_row("all", *(f"{count:,}" for count in counts), end_section=True)
    there = (part.luts, part.flip_flops, part.block_rams, part.multipliers)
    table.add_row(part.name, *(f"{count:,}" for count in there))
    print_table(table)
    typer.echo(
        f"{built.routed.megahertz:.1f} MHz reached (seed {built.seed}), runs at "
        f"{built.clocks.megahertz:g} MHz"
    )
    for what, path in written.items():
        typer.echo(f"wrote {path} ({what})")
