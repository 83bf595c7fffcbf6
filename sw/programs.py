# SPDX-License-Identifier: Apache-2.0
"""Exported PyTorch programs: exporting, running as they are, saving."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from .errors import DataError, FrontendError
from .files import replacing
from .frontend.program import HOST

EXPORT_FAILURES = (
    AssertionError,
    RuntimeError,
    TypeError,
    ValueError,
    torch._dynamo.exc.UserError,
)
"""What a module's own code, or tracing it, raises inside torch.export."""

BATCH = 256
"""Images at a time where the program's batch dimension is free."""


def export_module(module: torch.nn.Module, x: NDArray[np.float32]) -> ExportedProgram:
    """`module` in evaluation mode, exported for inputs like `x` with a free batch size where the
    module allows it, else for one image. Raises `FrontendError`."""
    training = module.training
    module.eval()
    try:
        batch = torch.export.Dim("batch", min=1)
        example = torch.from_numpy(np.resize(x, (2, *x.shape[1:])))
        try:
            return torch.export.export(module, (example,), dynamic_shapes=({0: batch},))
        except EXPORT_FAILURES:  # the module's own code may fix the batch
            return torch.export.export(module, (example[:1],))
    except EXPORT_FAILURES as error:
        raise FrontendError(f"torch.export cannot export the module: {error}") from None
    finally:
        module.train(training)


def save_program(program: ExportedProgram, path: Path) -> None:
    """Writes a .pt2 file, complete or not at all."""
    with replacing(path) as temporary:
        torch.export.save(program, temporary)


def run_program(
    program: ExportedProgram, x: NDArray[np.float32], *, logits: bool = False
) -> NDArray[np.float32]:
    """The program's output, (images, ...), for inputs `x`, (images, ...); with `logits` what a
    softmax, log_softmax or argmax at its end is given, as integer graphs end there.

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
    if logits:
        module = without_host(module)
    results = []
    with torch.no_grad():
        for start in range(0, len(x), size):
            batch = x[start : start + size]
            filled = np.resize(batch, (size, *x.shape[1:])) if fixed else batch
            results.append(module(torch.from_numpy(filled)).numpy()[: len(batch)])
    return np.concatenate(results)


def without_host(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """A program's module, changed so that its outputs are what the host operators at its end
    (softmax, log_softmax, argmax) read."""
    for output in module.graph.find_nodes(op="output"):
        for source in output.all_input_nodes:
            if source.target in HOST:
                output.replace_input_with(source, source.all_input_nodes[0])
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _input_shape(program: ExportedProgram) -> list[int | torch.SymInt]:
    names = program.graph_signature.user_inputs
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name == names[0]:
            return list(node.meta["val"].shape)
    raise DataError("the network has no input")
