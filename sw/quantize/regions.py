# SPDX-License-Identifier: Apache-2.0
"""Functions of one value in a float program: which nodes become one table together."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.fx import Node

from ..frontend import program as ops


def activations(nodes: Iterable[Node], inputs: Iterable[Node]) -> set[Node]:
    """Nodes that depend on the program's input's values (not only on its shape)."""
    found = set(inputs)
    for node in nodes:
        if node.op == "call_function" and node.target != ops.aten.sym_size.int:
            if any(n in found for n in node.all_input_nodes):
                found.add(node)
    return found


def operands(node: Node, values: set[Node]) -> list[Node]:
    """The activations that a call computes with; one that occurs twice, twice."""
    found: list[Node] = []
    for argument in (*node.args, *node.kwargs.values()):
        items = argument if isinstance(argument, list | tuple) else (argument,)
        found.extend(n for n in items if isinstance(n, Node) and n in values)
    return found


def is_affine(node: Node, values: set[Node]) -> bool:
    """Whether a node is a sum or product of one activation and constants, or batch-norm."""
    if node.op != "call_function" or len(operands(node, values)) != 1:
        return False
    if node.target in (ops.aten.div.Tensor, ops.aten.div_.Tensor):
        return node.args[0] in values
    return node.target in ops.ARITHMETIC | ops.NEGATION | {ops.BATCH_NORM}


def _by_one_number(node: Node) -> bool:
    """Whether the constants of a call are single numbers, the same for all channels."""
    if node.target == ops.BATCH_NORM:
        return False
    for other in node.all_input_nodes:
        value = other.meta.get("val")
        if other.op == "get_attr" and isinstance(value, torch.Tensor) and value.numel() != 1:
            return False
        if other.op == "get_attr" and not isinstance(value, torch.Tensor):
            return False
    return True


def function_roots(nodes: Iterable[Node], values: set[Node]) -> dict[Node, Node]:
    """For each node that computes a function of one value: the node it is a function of, as far
    back as functions and clamps go."""
    roots: dict[Node, Node] = {}
    for node in nodes:
        if node.op != "call_function" or node not in values:
            continue
        sources = operands(node, values)
        if not sources or any(not isinstance(n.meta.get("val"), torch.Tensor) for n in sources):
            continue
        origins = {roots.get(source, source) for source in sources}
        if len(origins) != 1:
            continue
        (origin,) = origins
        inside = sources[0] in roots
        joined = len(sources) == 2 and (
            ops.operator_name(node).rstrip("_") in ("mul", "div", "maximum", "minimum")
            or any(source in roots for source in sources)
        )
        single = len(sources) == 1
        if (
            (node.target in ops.TABLES and (single or joined))
            or (node.target in ops.ARITHMETIC | ops.NEGATION and single and _by_one_number(node))
            or (node.target in ops.ARITHMETIC and joined)
            or (node.target in ops.CLAMPS | ops.NO_OPERATION and single and inside)
        ):
            roots[node] = origin
    return roots


def products(nodes: Iterable[Node], values: set[Node]) -> list[Node]:
    """Products and quotients of two activations that are no function of one value."""
    nodes = list(nodes)
    roots = function_roots(nodes, values)
    return [
        node
        for node in nodes
        if node.op == "call_function"
        and node.target in ops.ARITHMETIC | ops.TABLES
        and ops.operator_name(node).rstrip("_") in ("mul", "div", "maximum", "minimum")
        and len(operands(node, values)) == 2
        and node not in roots
    ]
