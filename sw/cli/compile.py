# SPDX-License-Identifier: Apache-2.0
"""`bitloop compile`: a quantized model to an accelerator binary."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import DEFAULT_PRESET, PresetOption, SetOption, check_files, configure, progress

NAME = "compile"


def command(
    network: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Quantized .pt2, .tflite or .onnx.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Binary to write.")],
    preset: PresetOption = DEFAULT_PRESET,
    settings: SetOption = None,
) -> None:
    """Compile a quantized network for a core.

    What does not fit the core is said here, with by how much.

    Example: bitloop compile net.w8.pt2 --preset n16 -o net.bitloop
    """
    config = configure(preset, settings)
    check_files({"MODEL": network}, {"--output": output})
    with progress(f"loading {network}") as say:
        from ..compile import compile_graph
        from ..frontend.detect import import_file
        from ..inspect import external_memory

        graph, notes = import_file(network, config.multiplier_bits)
        say(f"compiling {network} for {config.name}")
        binary = compile_graph(graph, config)
        binary.save(output)
    for note in notes:
        typer.echo(note, err=True)
    macs = sum(layer.macs for layer in binary.layers)
    typer.echo(
        f"wrote {output}: {len(binary.layers)} layers, {macs:,} MACs, "
        f"{binary.program_bytes:,} bytes for {config.name}"
    )
    typer.echo(f"external memory: {external_memory(binary)}")
