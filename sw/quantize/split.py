# SPDX-License-Identifier: Apache-2.0
"""Outlier channel splitting: the input channel with the largest weight becomes two."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from ..frontend import program as ops
from .equalize import layer_groups, pairs
from .fold import export_module, layer_constants, set_constant
from .points import check_float, folded_module
from .weights import code_limits


def split_outliers(
    program: ExportedProgram, bits: int | Mapping[str, int] = 8, ratio: float = 0.02
) -> ExportedProgram:
    """Outlier channel splitting (Zhao et al., ICML 2019, section 3), batch-norm folded.

    In each layer without groups, ceil(ratio * inputs) times, the input channel of the largest |w|
    is duplicated, w -> ((w - s/2) / 2, (w + s/2) / 2) with s = max|w| / (2^(bits-1) - 1), so that
    the two codes add up to w's (quantization-aware splitting). Where the layer before alone feeds
    this one, that layer computes the channel twice; else a concatenation copies it. The function
    stays; layers grow. `bits`: of the weights, by layer (8 where left out) or of all.
    """
    check_float(program)
    module = folded_module(program)
    before = {b: a for a, b in pairs(module) if layer_groups(a) == 1}
    for node, name in ops.weighted_layers(module.graph.nodes).items():
        width = bits.get(name, 8) if isinstance(bits, Mapping) else bits
        if node.target in ops.TRANSPOSED or layer_groups(node) != 1:
            continue
        weight, _ = layer_constants(module, node)
        widened, copies = _split(weight, math.ceil(ratio * weight.shape[1]), width)
        if node in before and len(layer_constants(module, before[node])[0]) == weight.shape[1]:
            _duplicate_outputs(module, before[node], copies)
        elif not _concatenate(module, node, copies):
            continue
        set_constant(module, node, 1, widened)
    return export_module(module, program)


def _split(weight: torch.Tensor, count: int, bits: int) -> tuple[torch.Tensor, list[int]]:
    """The weight with `count` more input channels, and the channel each repeats."""
    high = code_limits(bits)[1]
    copies: list[int] = []
    origin = list(range(weight.shape[1]))
    for _ in range(count):
        largest = weight.abs().transpose(0, 1).flatten(1).amax(1)
        channel = int(largest.argmax())
        half_step = largest.max() / high / 2
        part = weight[:, channel : channel + 1]
        first = (part - half_step) / 2
        second = part - first  # (part + half_step) / 2, so rounded that the sum stays
        weight = torch.cat([weight[:, :channel], first, weight[:, channel + 1 :], second], 1)
        copies.append(origin[channel])
        origin.append(origin[channel])
    return weight, copies


def _duplicate_outputs(module: GraphModule, node: Node, copies: list[int]) -> None:
    weight, bias = layer_constants(module, node)
    set_constant(module, node, 1, torch.cat([weight, weight[copies]]))
    if bias is not None:
        set_constant(module, node, 2, torch.cat([bias, bias[copies]]))


def _concatenate(module: GraphModule, node: Node, copies: list[int]) -> bool:
    """Feeds the layer its input with copies of channels behind it; False where the channels do not
    stand in dimension 1."""
    source = node.args[0]
    assert isinstance(source, Node)
    value = source.meta.get("val")
    if node.target == ops.LINEAR and (not isinstance(value, torch.Tensor) or value.ndim != 2):
        return False
    aten = torch.ops.aten
    with module.graph.inserting_before(node):
        slices = [
            module.graph.call_function(aten.slice.Tensor, (source, 1, c, c + 1)) for c in copies
        ]
        joined = module.graph.call_function(aten.cat.default, ([source, *slices], 1))
    node.args = (joined, *node.args[1:])
    return True
