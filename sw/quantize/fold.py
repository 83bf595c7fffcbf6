# SPDX-License-Identifier: Apache-2.0
"""Float programs changed: batch-norm folded, and constants of layers given other values."""

from __future__ import annotations

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from .points import check_float, example_input, folded_module
from .write import attribute, dynamic_batch


def fold_batch_norm(program: ExportedProgram) -> ExportedProgram:
    """The float program with batch-norm folded into the layers before it: W := W g / sqrt(v + e),
    b := (b - m) g / sqrt(v + e) + beta (Jacob et al., CVPR 2018, Eq. 14). Names stay."""
    check_float(program)
    return export_module(folded_module(program), program)


def export_module(module: GraphModule, program: ExportedProgram) -> ExportedProgram:
    """A module made from `program`'s as a program again, its batch dimension as it was."""
    module.graph.eliminate_dead_code()
    module.recompile()
    example = (example_input(program),)
    return torch.export.export(module, example, dynamic_shapes=dynamic_batch(program))


def set_constant(module: GraphModule, node: Node, index: int, value: torch.Tensor) -> None:
    """Gives a call another constant (weight, bias) as its argument; others that read the old one
    keep it."""
    name = f"_changed_{node.name}_{index}"
    module.register_parameter(name, torch.nn.Parameter(value.clone(), requires_grad=False))
    with module.graph.inserting_before(node):
        constant = module.graph.get_attr(name)
    constant.meta["val"] = value
    node.args = (*node.args[:index], constant, *node.args[index + 1 :])


def layer_constants(module: GraphModule, node: Node) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias of a weighted node."""
    weight = attribute(module, node.args[1])
    assert weight is not None
    bias = attribute(module, node.args[2]) if len(node.args) > 2 else None
    return weight.detach(), None if bias is None else bias.detach()
