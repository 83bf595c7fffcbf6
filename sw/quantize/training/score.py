# SPDX-License-Identifier: Apache-2.0
"""Accuracy of a float program and of the integer network it has become."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch.export import ExportedProgram

from ...codes import encode
from ...dataset import Dataset
from ...errors import DataError
from ...frontend.torch_export import import_program
from ...graph.execute import execute
from ...programs import run_program

BATCH = 64
"""Images at a time through the golden model."""


def float_accuracy(program: ExportedProgram, data: Dataset) -> float:
    """Fraction of the images whose largest output is their label, as PyTorch computes it."""
    return _accuracy(run_program(program, data.x), data)


def integer_accuracy(program: ExportedProgram, data: Dataset) -> float:
    """The same of a quantized program with one input and result, by the golden model."""
    graph = import_program(program, "network")
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise DataError(f"scoring needs one input and one result, not {len(graph.outputs)} results")
    (name,), (result,) = graph.inputs, graph.outputs
    spec = graph.tensors[name]
    scores = [
        execute(graph, {name: encode(spec, data.x[i : i + BATCH])})[result]
        for i in range(0, len(data), BATCH)
    ]
    return _accuracy(np.concatenate(scores), data)


def _accuracy(scores: NDArray, data: Dataset) -> float:
    if data.y is None:
        raise DataError("data: no labels y to score with")
    found = scores.reshape(len(scores), -1).argmax(1)
    return float((found == data.y).mean())
