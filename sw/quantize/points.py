# SPDX-License-Identifier: Apache-2.0
"""Where a float program is quantized: inputs, and results of sums after their activation."""

from __future__ import annotations

import importlib
import logging

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from ..errors import DataError, FrontendError
from ..frontend import program as ops
from ..frontend.program import SUPPORTED_FLOAT, is_quantized, unsupported

_SUMS = ops.WEIGHTED | ops.ADDITIONS | ops.AVERAGES
"""Operators whose result has a scale of its own."""


def single_input(program: ExportedProgram) -> Node:
    """The program's one input; raises `DataError` if there are several."""
    names = program.graph_signature.user_inputs
    nodes = [n for n in program.graph.nodes if n.op == "placeholder" and n.name in names]
    if len(nodes) != 1:
        raise DataError(f"quantization needs a program with one input, this has {len(nodes)}")
    return nodes[0]


def check_float(program: ExportedProgram) -> None:
    """Raise `FrontendError` for a quantized program and for operators that are not supported."""
    if is_quantized(program):
        raise FrontendError("the program is quantized already; give the float program")
    problems = unsupported(program.graph.nodes, SUPPORTED_FLOAT)
    problems += [
        f"{node.name} ({ops.operator_name(node)}): {ops.REASONS['batch_norm']}"
        for node in program.graph.nodes
        if node.op == "call_function" and node.target == ops.BATCH_NORM
        and not _foldable(node)
    ]  # fmt: skip
    if problems:
        listed = "\n  ".join(problems)
        raise FrontendError(f"the program cannot be quantized:\n  {listed}")


def _foldable(batch_norm: Node) -> bool:
    source = batch_norm.args[0]
    return isinstance(source, Node) and source.target in ops.WEIGHTED and len(source.users) == 1


def load_torchao() -> None:
    """Import torchao without the lines it logs about GPU libraries that this machine lacks."""
    loggers = [logging.getLogger(name) for name in ("torchao", "torch.utils._pytree")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        importlib.import_module("torchao.quantization.pt2e.quantize_pt2e")
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def folded_module(program: ExportedProgram) -> GraphModule:
    """The program as a module, batch-norm folded into the layers before it. A fresh one each
    call."""
    load_torchao()
    from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e
    from torchao.quantization.pt2e.quantizer import Quantizer

    class Nothing(Quantizer):
        def annotate(self, model: GraphModule) -> GraphModule:
            return model

        def validate(self, model: GraphModule) -> None:
            return None

    module = program.module(check_guards=False)
    return prepare_pt2e(module, Nothing())


def activation_points(module: GraphModule) -> list[Node]:
    """Nodes whose result is quantized: the input; sums, after the activation that alone uses them;
    ReLU6-like clamps of what is quantized already. Maxima, ReLU and reshapes keep codes as they
    are, so they have none."""
    points: list[Node] = []
    for node in module.graph.nodes:
        if node.op == "placeholder":
            points.append(node)
        elif node.op == "call_function" and node.target in _SUMS:
            points.append(_after_activation(node))
        elif (
            node.op == "call_function"
            and node.target in ops.CLAMPS - ops.RELU
            and node not in points
        ):
            points.append(_after_activation(node))
    return points


_TRANSPARENT = ops.CLAMPS | ops.MAXIMA | ops.NO_OPERATION
"""Operators that rounding to codes commutes with."""


def _after_activation(node: Node) -> Node:
    """The last clamp of the chain of sole users of `node`, else `node`."""
    last = node
    while len(node.users) == 1 and next(iter(node.users)).target in _TRANSPARENT:
        node = next(iter(node.users))
        if node.target in ops.CLAMPS:
            last = node
    return last


def example_input(program: ExportedProgram) -> torch.Tensor:
    """Zeros of the input's shape; 2 images where the batch dimension is dynamic."""
    value = single_input(program).meta["val"]
    sizes = [s if isinstance(s, int) else 2 for s in value.shape]
    return torch.zeros(sizes, dtype=value.dtype)
