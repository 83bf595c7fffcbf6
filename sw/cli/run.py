# SPDX-License-Identifier: Apache-2.0
"""`bitloop run`: a binary on a device, arrays in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
    progress,
)

NAME = "run"


def command(
    binary: BinaryArgument,
    input_path: Annotated[
        Path, typer.Option("--input", metavar="X.npy", help="Inputs, a batch; .npz for several.")
    ],
    output_path: Annotated[
        Path, typer.Option("--output", metavar="Y.npy", help="Outputs; .npz for several.")
    ],
    device: DeviceOption = "reference",
    raw: Annotated[
        bool,
        typer.Option("--raw", help="Integer codes in the source model's dtype and layout."),
    ] = False,
    memory: MemoryOption = None,
    preset: LoadedPresetOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a batch of inputs, floats through the stored scales or raw codes.

    Example: bitloop run net.bitloop --input x.npy --output y.npy --device verilator
    """
    import numpy as np

    from ..binary import Binary
    from ..dataset import load_arrays
    from ..files import replacing
    from ..session import Session, open_device

    model = parse_memory(memory)
    check_files({"NET.bitloop": binary, "--input": input_path}, {"--output": output_path})
    loaded = Binary.load(binary)
    loaded.check_config(configure_loaded(loaded.config, preset, settings))
    inputs = load_arrays(input_path)
    with progress(f"loading {binary} on {device}") as say:
        session = Session(loaded, open_device(device, loaded.config, model, say))
        say("running")
        outputs = session.run_raw(inputs) if raw else session.run(inputs)
    arrays = {"y": outputs} if isinstance(outputs, np.ndarray) else outputs
    with replacing(output_path) as temporary, temporary.open("wb") as file:
        if isinstance(outputs, np.ndarray) and output_path.suffix != ".npz":
            np.save(file, outputs)
        else:
            np.savez(file, allow_pickle=False, **arrays)
    images = len(next(iter(arrays.values())))
    cycles = session.profile.cycles if session.profile is not None else None
    if as_json:
        print_json(
            {
                "preset": loaded.config.name,
                "device": device,
                "images": images,
                "cycles": cycles,
                "output": str(output_path),
            }
        )
    else:
        speed = f", {cycles:,} cycles an image" if cycles is not None else ""
        typer.echo(f"wrote {output_path}: {images} images on {device}{speed}")
