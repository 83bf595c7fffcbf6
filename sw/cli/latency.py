# SPDX-License-Identifier: Apache-2.0
"""`bitloop latency`: cycles of one inference, from the core's own counters or its cycle model, and
its time on a board."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import DataError, DeviceError
from .common import (
    BinaryArgument,
    DeviceOption,
    JsonOption,
    LoadedPresetOption,
    MemoryOption,
    SetOption,
    check_files,
    configure_loaded,
    parse_memory,
    print_json,
    print_table,
    progress,
)

if TYPE_CHECKING:
    from ..devices.interface import MemoryModel
    from ..report import LatencyReport
    from ..session import Session

NAME = "latency"


def command(
    binary: BinaryArgument,
    device: DeviceOption = "verilator",
    memory: MemoryOption = None,
    preset: LoadedPresetOption = None,
    settings: SetOption = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Compare the model with the RTL or the board; exit 1 if they differ."
        ),
    ] = False,
    trace: Annotated[
        Path | None,
        typer.Option(
            "--trace", metavar="T.json", help="Write when each instruction ran, for Perfetto."
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", metavar="R.html", help="Write a page: roofline, lost cycles by layer, table."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Report cycles by layer and by cause, measured on RTL or board, or predicted by the model.

    Causes sum to the cycles; so do head, layers and tail. Utilization is MACs over what the array
    could have done in a layer's cycles at its width. `--verify` asks both devices and names the
    first layer or counter in which they differ, if any. A board is compared with the model of its
    own memory. Only when that is refreshed is unknown: waits are a range then, and `--verify` looks
    for the time of the refresh that gives every cycle.

    On a board (`--device serial:PORT` or `virtual:BOARD`) the report also has milliseconds, of
    compute, of transfer over the link and end to end, and frames per second, where the clock is
    known: a real board's is its bitstream's, a virtual one's needs `bitloop build` once.

    `--trace` writes a trace for ui.perfetto.dev (a cycle as a microsecond): layers, cause of every
    cycle, instructions on array, loader, storer and sequencer. `--html` writes one page without
    references to anything outside it. Both are the same from RTL and model; with `--verify` they
    show the RTL.

    Example: bitloop latency net.bitloop --memory latency=80,bytes=4 --json

    Example: bitloop latency net.bitloop --device model --trace t.json --html r.html

    Example: bitloop latency net.bitloop --device virtual:ulx3s-85f --verify
    """
    from ..binary import Binary
    from ..report import first_difference
    from ..session import Session, is_board, open_device

    model = parse_memory(memory)
    if memory is not None and is_board(device):
        raise DataError(f"--memory: {device} has its own; leave the option out")
    check_files({"NET.bitloop": binary}, {"--trace": trace, "--html": html})
    loaded = Binary.load(binary)
    loaded.check_config(configure_loaded(loaded.config, preset, settings))
    reports: list[LatencyReport] = []
    both = verify and not is_board(device)
    for name in ("verilator", "model") if both else (device,):
        with progress(f"loading {binary} on {name}") as say:
            opened = open_device(name, loaded.config, model, say, record=bool(trace or html))
            session = Session(loaded, opened)
            say("running one inference")
            reports.append(session.measure(thorough=verify))
            if len(reports) == 1:
                _draw(session, reports[0], _Files(binary, trace, html), model)
    if not both:
        _show(reports[0], as_json)
        _say_written(trace, html, as_json)
        board = reports[0].board
        if verify and board is not None and board.difference() is not None:
            raise typer.Exit(1)
        return
    difference = first_difference(*reports)
    if as_json:
        found = {report.device: report.as_dict() for report in reports}
        print_json({"equal": difference is None, "difference": difference, **found})
    else:
        for report in reports:
            print_table(report.as_table())
        _say_written(trace, html, as_json)
        typer.echo(difference or "model and RTL agree in every counter and layer")
    if difference is not None:
        raise typer.Exit(1)


@dataclass(frozen=True)
class _Files:
    binary: Path
    trace: Path | None
    html: Path | None


def _draw(session: Session, report: LatencyReport, files: _Files, memory: MemoryModel) -> None:
    """Writes the files asked for, of the inference that `report` is of."""
    from ..devices.timeline import RecordingDevice

    if files.trace is None and files.html is None:
        return
    from bitloop.sim.simulation import OUTSTANDING_BURSTS

    from ..account import account

    if not isinstance(session.device, RecordingDevice):
        raise DeviceError(f"device {session.device.name!r} cannot record; use verilator or model")
    timeline = session.device.timeline()
    found = account(session.binary, report, timeline)
    if files.trace is not None:
        from ..trace import write_trace

        write_trace(files.trace, session.binary, found, timeline)
    if files.html is not None:
        from ..html import Conditions, write_page

        conditions = Conditions(str(files.binary), memory, OUTSTANDING_BURSTS)
        write_page(files.html, session.binary, found, conditions)


def _say_written(trace: Path | None, html: Path | None, as_json: bool) -> None:
    for path in (trace, html):
        if path is not None and not as_json:
            typer.echo(f"wrote {path}")


def _show(report: LatencyReport, as_json: bool) -> None:
    if as_json:
        print_json(report.as_dict())
    else:
        print_table(report.as_table())
