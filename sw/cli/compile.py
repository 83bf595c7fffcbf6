# SPDX-License-Identifier: Apache-2.0
"""`bitloop compile`: a quantized program to an accelerator binary."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import DEFAULT_PRESET, PresetOption, SetOption, configure, progress, require_file

NAME = "compile"


def command(
    network: Annotated[Path, typer.Argument(metavar="Q.pt2", help="Quantized program.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Binary to write.")],
    preset: PresetOption = DEFAULT_PRESET,
    settings: SetOption = None,
) -> None:
    """Compile a quantized network for a core.

    What does not fit the core is said here, with by how much.

    Example: bitloop compile net.w8.pt2 --preset n16 -o net.bitloop
    """
    config = configure(preset, settings)
    require_file(network)
    with progress("loading PyTorch") as say:
        from ..compile import compile_graph
        from ..frontend.torch_export import import_program, load_program

        program = load_program(network)
        say(f"compiling {network} for {config.name}")
        graph = import_program(program, network.stem, config.multiplier_bits)
        binary = compile_graph(graph, config)
        binary.save(output)
    macs = sum(layer.macs for layer in binary.layers)
    typer.echo(
        f"wrote {output}: {len(binary.layers)} layers, {macs:,} MACs, "
        f"{binary.program_bytes:,} bytes for {config.name}"
    )
