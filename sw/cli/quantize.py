# SPDX-License-Identifier: Apache-2.0
"""`bitloop quantize`: post-training quantization of an exported program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..files import check_output
from .common import progress, require_file

NAME = "quantize"


def command(
    network: Annotated[Path, typer.Argument(metavar="NET.pt2", help="Float torch.export program.")],
    data: Annotated[
        Path, typer.Option("--data", metavar="D.npz", help="Calibration inputs: `x` float32 NCHW.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Quantized program to write.")],
    weights: Annotated[
        Literal["8", "4", "2"], typer.Option(help="Weight bits of every layer.")
    ] = "8",
) -> None:
    """Quantize a float network: symmetric weights per channel, asymmetric 8-bit activations.

    Example: bitloop quantize net.pt2 --data calibration.npz --weights 4 -o net.w4.pt2
    """
    for path in (network, data):
        require_file(path)
    check_output(output)
    with progress("loading PyTorch") as say:
        import bitloop

        from ..dataset import load_dataset
        from ..programs import save_program

        x = load_dataset(data).x
        say(f"quantizing {network} with {len(x)} inputs")
        save_program(bitloop.quantize(network, x, int(weights)), output)
    typer.echo(f"wrote {output}")
