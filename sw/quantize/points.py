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
from .regions import activations, function_roots, is_affine, operands, products

_OWN_SCALE = ops.WEIGHTED | ops.AVERAGES | ops.CONCATENATIONS
"""Operators whose result always has a scale of its own."""


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
    values = activations(program.graph.nodes, [single_input(program)])
    problems += [
        f"{node.name} ({ops.operator_name(node)}): {ops.PRODUCT}"
        for node in products(program.graph.nodes, values)
    ]
    if problems:
        listed = "\n  ".join(problems)
        raise FrontendError(f"the program cannot be quantized:\n  {listed}")


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
    """Nodes whose result is quantized: the input; sums, averages, concatenations, tables, after the
    activation that alone uses them; ReLU6-like clamps of what is quantized already. Maxima, ReLU
    and movements keep codes as they are, so they have none; neither has what only a concatenation
    uses, which is quantized with it, nor what becomes one table with its user."""
    nodes = list(module.graph.nodes)
    values = activations(nodes, [n for n in nodes if n.op == "placeholder"])
    roots = function_roots(nodes, values)
    points: list[Node] = []

    def add(node: Node) -> None:
        last = _after_activation(node, values)
        if last is not None and last not in points:
            points.append(last)

    for node in nodes:
        if node.op == "placeholder":
            points.append(node)
        elif node.op != "call_function" or node not in values:
            continue
        elif node in roots:
            leaves = any(roots.get(user) is not roots[node] for user in node.users)
            folded = is_affine(node, values) and _folded_into(node, values)
            if leaves and not folded:
                add(node)
        elif node.target in ops.PADS and ops.arguments(node).get("value"):
            points.append(node)
        elif node.target in _OWN_SCALE or is_affine(node, values):
            if not (is_affine(node, values) and _folded_into(node, values)):
                add(node)
        elif node.target in ops.ARITHMETIC or (
            node.target in ops.CLAMPS - ops.RELU and node not in points
        ):
            add(node)
    return points


def shared_ranges(module: GraphModule) -> list[set[str]]:
    """Names of points that are to have one scale: a concatenation's and those of its parts, which
    then need no arithmetic to be joined."""
    points = set(activation_points(module))
    groups: list[set[str]] = []
    for node in module.graph.nodes:
        if node.op != "call_function" or node.target not in ops.CONCATENATIONS or (
            node not in points
        ):  # fmt: skip
            continue
        group = {node.name}
        for part in node.all_input_nodes:
            while part not in points and len(part.all_input_nodes) == 1 and (
                part.target in TRANSPARENT
            ):  # fmt: skip
                part = part.all_input_nodes[0]
            if part in points:
                group.add(part.name)
        touching = [g for g in groups if g & group]
        groups = [g for g in groups if not g & group] + [group.union(*touching)]
    return groups


TRANSPARENT = (
    ops.CLAMPS | ops.MAXIMA | ops.NO_OPERATION | ops.MOVEMENTS | ops.UPSAMPLINGS
) - ops.MAXIMA_ADAPTIVE
"""Operators that rounding to codes commutes with."""


def _folded_into(node: Node, values: set[Node]) -> bool:
    """Whether constants join the weights of the layer just before, which nobody else reads."""
    (source,) = operands(node, values)
    while is_affine(source, values) and len(source.users) == 1:
        (source,) = operands(source, values)
    return source.target in ops.WEIGHTED and len(source.users) == 1


def _after_activation(node: Node, values: set[Node]) -> Node | None:
    """The last clamp of the chain of sole users of `node`, else `node`, constants folded into a
    layer first; None if the chain ends in a concatenation."""
    last = node
    if node.target in ops.WEIGHTED:
        while len(node.users) == 1 and is_affine(next(iter(node.users)), values):
            last = node = next(iter(node.users))
    while len(node.users) == 1 and next(iter(node.users)).target in TRANSPARENT:
        node = next(iter(node.users))
        if node.target in ops.CLAMPS:
            last = node
    joined = len(node.users) == 1 and next(iter(node.users)).target in ops.CONCATENATIONS
    return None if joined and last.target not in ops.CONCATENATIONS else last


def example_input(program: ExportedProgram) -> torch.Tensor:
    """Zeros of the input's shape; 2 images where the batch dimension is dynamic."""
    value = single_input(program).meta["val"]
    sizes = [s if isinstance(s, int) else 2 for s in value.shape]
    return torch.zeros(sizes, dtype=value.dtype)
