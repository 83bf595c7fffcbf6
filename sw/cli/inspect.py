# SPDX-License-Identifier: Apache-2.0
"""`bitloop inspect`: what is in a binary."""

from __future__ import annotations

import typer

from .common import BinaryArgument, JsonOption, print_json

NAME = "inspect"


def command(
    binary: BinaryArgument,
    as_json: JsonOption = False,
) -> None:
    """Show a binary: core, inputs and outputs, layers with bits, memory map, disassembly.

    Example: bitloop inspect net.bitloop
    """
    import dataclasses

    from ..binary import Binary
    from ..inspect import render

    loaded = Binary.load(binary)
    if as_json:
        print_json(
            {
                "name": loaded.name,
                "preset": loaded.config.name,
                "fingerprint": loaded.fingerprint,
                "config": dataclasses.asdict(loaded.config),
                "inputs": [dataclasses.asdict(port) for port in loaded.inputs],
                "outputs": [dataclasses.asdict(port) for port in loaded.outputs],
                "layers": [dataclasses.asdict(layer) for layer in loaded.layers],
                "placements": [dataclasses.asdict(place) for place in loaded.placements],
            }
        )
    else:
        typer.echo(render(loaded))
