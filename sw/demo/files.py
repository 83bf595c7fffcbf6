# SPDX-License-Identifier: Apache-2.0
"""`python -m bitloop.demo.files FOLDER`: a trained network and its data, to try the commands on."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from ..cli.common import hush_libraries, progress
from ..files import replacing
from ..programs import export_module, save_program
from .digits import load_digits, train


def write(folder: Path) -> None:
    """net.pt2, the float network; train.npz and test.npz with `x` and `y`; x.npy, 50 inputs."""
    training, test = load_digits()
    with progress("training") as say:
        save_program(export_module(train(training, progress=say), training.x), folder / "net.pt2")
    for name, data in (("train.npz", training), ("test.npz", test)):
        assert data.y is not None
        with replacing(folder / name) as temporary:
            np.savez(temporary, x=data.x, y=data.y)
    with replacing(folder / "x.npy") as temporary:
        np.save(temporary, test.x[:50])


if __name__ == "__main__":
    hush_libraries()
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
