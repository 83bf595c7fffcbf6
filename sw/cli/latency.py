# SPDX-License-Identifier: Apache-2.0
"""`bitloop latency`: cycles of one inference, from the core's own counters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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

NAME = "latency"


def command(
    binary: Annotated[Path, typer.Argument(metavar="NET.bitloop", help="Accelerator binary.")],
    device: DeviceOption = "verilator",
    memory: MemoryOption = None,
    preset: LoadedPresetOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Report measured cycles by layer and by cause.

    Causes sum to the cycles; so do head, layers and tail. Utilization is MACs over what the array
    could have done in a layer's cycles at its width.

    Example: bitloop latency net.bitloop --memory latency=80,bytes=4 --json
    """
    from ..binary import Binary
    from ..session import Session, open_device

    model = parse_memory(memory)
    loaded = Binary.load(binary)
    loaded.check_config(configure_loaded(loaded.config, preset, settings))
    with progress(f"loading {binary} on {device}") as say:
        session = Session(loaded, open_device(device, loaded.config, model, say))
        say("running one inference")
        report = session.measure()
    if as_json:
        print_json(report.as_dict())
    else:
        print_table(report.as_table())
