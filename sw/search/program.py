# SPDX-License-Identifier: Apache-2.0
"""Running an exported PyTorch program as it is, in floats: what the ranking compares to."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from ..errors import DataError

BATCH = 256
"""Images at a time where the program's batch dimension is free."""


def run_program(program: ExportedProgram, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The program's output, (images, ...), for inputs `x`, (images, ...).

    Programs exported for a fixed batch run in batches of that size, the last one filled up.
    Raises `DataError` for inputs of another shape.
    """
    shape = _input_shape(program)
    if len(shape) != x.ndim or any(
        isinstance(expected, int) and expected != size
        for expected, size in zip(shape[1:], x.shape[1:], strict=True)
    ):
        expected = ", ".join(["images", *map(str, shape[1:])])
        raise DataError(f"the network takes inputs ({expected}), not {x.shape}")
    fixed = shape[0] if isinstance(shape[0], int) else None
    size = fixed or min(BATCH, len(x))
    module = program.module()
    results = []
    with torch.no_grad():
        for start in range(0, len(x), size):
            batch = x[start : start + size]
            filled = np.resize(batch, (size, *x.shape[1:])) if fixed else batch
            results.append(module(torch.from_numpy(filled)).numpy()[: len(batch)])
    return np.concatenate(results)


def _input_shape(program: ExportedProgram) -> list[int | torch.SymInt]:
    names = program.graph_signature.user_inputs
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name == names[0]:
            return list(node.meta["val"].shape)
    raise DataError("the network has no input")
