# SPDX-License-Identifier: Apache-2.0
"""`bitloop verilog`: the core as Verilog, and a description of it as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from bitloop.hw.config import ConfigError

from ..files import check_output, write_if_changed
from .common import DEFAULT_PRESET, PresetOption, SetOption, configure, progress

NAME = "verilog"


def command(
    output: Annotated[Path, typer.Option("--output", "-o", help="Verilog file to write.")],
    preset: PresetOption = DEFAULT_PRESET,
    target: Annotated[
        Literal["generic", "ecp5"],
        typer.Option(help="Generic Verilog, or with the carry cells of ECP5."),
    ] = "generic",
    settings: SetOption = None,
) -> None:
    """Write the core's Verilog, and beside it a .json of its ports, registers and config.

    Files that would not change are left alone.

    Example: bitloop verilog --preset n16 --target ecp5 -o build/core.v
    """
    config = configure(preset, settings)
    if output.suffix == ".json":
        raise ConfigError(f"--output {output}: the description goes to .json; name the Verilog .v")
    check_output(output)
    with progress(f"generating Verilog of {config.name} ({target})"):
        from bitloop.hw.verilog import describe, emit

        text = emit(config, target)
        description = json.dumps(describe(config, target), indent=2) + "\n"
    for path, content in ((output, text), (output.with_suffix(".json"), description)):
        verb = "wrote" if write_if_changed(path, content) else "unchanged:"
        typer.echo(f"{verb} {path}")
