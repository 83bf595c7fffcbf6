# SPDX-License-Identifier: Apache-2.0
"""Cross-layer equalization: weight ranges of neighbouring layers made alike, channel by channel."""

from __future__ import annotations

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from ..frontend import program as ops
from .fold import export_module, layer_constants, set_constant
from .points import check_float, folded_module

_HOMOGENEOUS = ops.RELU | ops.MAXIMA | ops.AVERAGES_WINDOW | ops.DROPOUTS
"""Operators with f(s x) = s f(x) for s > 0, channel by channel."""
_ROUNDS = 20
_CLOSE = 1e-3


def equalize(program: ExportedProgram) -> ExportedProgram:
    """Cross-layer equalization (Nagel et al., ICCV 2019, section 4.1), batch-norm folded.

    For each pair of layers with only ReLU or pooling between them, r1 and r2 the ranges of the
    first's output and the second's input channels: s = sqrt(r1 r2) / r2, W1 := W1 / s,
    b1 := b1 / s, W2 := s W2; over all pairs until nothing moves. The function stays.
    """
    check_float(program)
    module = folded_module(program)
    found = pairs(module)
    for _ in range(_ROUNDS):
        if max((_equalize_pair(module, a, b) for a, b in found), default=0.0) < _CLOSE:
            break
    return export_module(module, program)


def pairs(module: GraphModule) -> list[tuple[Node, Node]]:
    """Layers (a, b) where b alone reads a, through operators that commute with scaling."""
    found = []
    for node in ops.weighted_layers(module.graph.nodes):
        last = node
        while len(last.users) == 1:
            (user,) = last.users
            if user.target in ops.WEIGHTED:
                if user.args[0] is last and node.target not in ops.TRANSPOSED and (
                    user.target not in ops.TRANSPOSED
                ):  # fmt: skip
                    found.append((node, user))
                break
            if user.target not in _HOMOGENEOUS or user.all_input_nodes != [last]:
                break
            last = user
    return found


def input_ranges(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """max|w| of each input channel, (input channels,), of (outputs, inputs / groups, ...)."""
    parts = weight.abs().reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return parts.amax((1, 3)).reshape(-1)


def scale_inputs(weight: torch.Tensor, factors: torch.Tensor, groups: int) -> torch.Tensor:
    """Weights times a factor for each input channel."""
    parts = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return (parts * factors.reshape(groups, 1, -1, 1)).reshape(weight.shape)


def layer_groups(node: Node) -> int:
    """Groups of a convolution; 1 for a linear layer."""
    return int(ops.arguments(node).get("groups", 1))


def _equalize_pair(module: GraphModule, a: Node, b: Node) -> float:
    """Equalizes one pair; returns the largest |log s|."""
    weight1, bias1 = layer_constants(module, a)
    weight2, _ = layer_constants(module, b)
    groups = layer_groups(b)
    r1 = weight1.abs().reshape(len(weight1), -1).amax(1)
    r2 = input_ranges(weight2, groups)
    if r1.shape != r2.shape:  # a movement lies between them
        return 0.0
    alive = (r1 > 0) & (r2 > 0)
    s = torch.where(alive, (r1.double() * r2.double()).sqrt() / r2.double(), 1.0)
    s = torch.where(alive, s, 1.0).float()
    shape = [-1] + [1] * (weight1.ndim - 1)
    set_constant(module, a, 1, weight1 / s.reshape(shape))
    if bias1 is not None:
        set_constant(module, a, 2, bias1 / s)
    set_constant(module, b, 1, scale_inputs(weight2, s, groups))
    return float(s.log().abs().max())
