# SPDX-License-Identifier: Apache-2.0
"""`bitloop latency`: cycles of one inference, from the core's own counters or its cycle model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import (
    DeviceOption,
    JsonOption,
    LoadedPresetOption,
    MemoryOption,
    SetOption,
    configure_loaded,
    parse_memory,
    print_json,
    print_table,
    progress,
)

if TYPE_CHECKING:
    from ..report import LatencyReport

NAME = "latency"


def command(
    binary: Annotated[Path, typer.Argument(metavar="NET.bitloop", help="Accelerator binary.")],
    device: DeviceOption = "verilator",
    memory: MemoryOption = None,
    preset: LoadedPresetOption = None,
    settings: SetOption = None,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Compare the model with the RTL; exit 1 if they differ."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Report cycles by layer and by cause, measured on the RTL or predicted by its model.

    Causes sum to the cycles; so do head, layers and tail. Utilization is MACs over what the array
    could have done in a layer's cycles at its width. `--verify` asks both devices and names the
    first layer or counter in which they differ, if any.

    Example: bitloop latency net.bitloop --memory latency=80,bytes=4 --json
    """
    from ..binary import Binary
    from ..report import first_difference
    from ..session import Session, open_device

    model = parse_memory(memory)
    loaded = Binary.load(binary)
    loaded.check_config(configure_loaded(loaded.config, preset, settings))
    reports: list[LatencyReport] = []
    for name in ("verilator", "model") if verify else (device,):
        with progress(f"loading {binary} on {name}") as say:
            session = Session(loaded, open_device(name, loaded.config, model, say))
            say("running one inference")
            reports.append(session.measure())
    if not verify:
        _show(reports[0], as_json)
        return
    difference = first_difference(*reports)
    if as_json:
        found = {report.device: report.as_dict() for report in reports}
        print_json({"equal": difference is None, "difference": difference, **found})
    else:
        for report in reports:
            print_table(report.as_table())
        typer.echo(difference or "model and RTL agree in every counter and layer")
    if difference is not None:
        raise typer.Exit(1)


def _show(report: LatencyReport, as_json: bool) -> None:
    if as_json:
        print_json(report.as_dict())
    else:
        print_table(report.as_table())
