# SPDX-License-Identifier: Apache-2.0
"""The command line: one file a verb. Everything heavy is imported by the verb that needs it."""

from __future__ import annotations

import typer

from . import (
    build,
    compile,
    devices,
    inspect,
    isa,
    latency,
    presets,
    quantize,
    run,
    search,
    sensitivity,
    sim,
    store,
    train,
    verilog,
)
from .common import VerbGroup

app = typer.Typer(
    cls=VerbGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Design a network's bit-widths and its accelerator together.",
)
for _module in (
    verilog,
    sim,
    quantize,
    train,
    compile,
    inspect,
    run,
    latency,
    search,
    sensitivity,
    store,
    presets,
    isa,
    build,
    devices,
):
    app.command(_module.NAME)(_module.command)


def main() -> None:
    """Entry point of `bitloop`."""
    app(prog_name="bitloop")
