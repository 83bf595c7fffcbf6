# SPDX-License-Identifier: Apache-2.0
"""What Bitloop knows of `torch.export` programs: operators, layer names, arguments, constants."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # noqa: F401  registers quantized_decomposed
from torch.export import ExportedProgram
from torch.fx import Node

from .names import unique

aten = torch.ops.aten
decomposed = torch.ops.quantized_decomposed

CONVOLUTIONS = frozenset({aten.conv2d.default, aten.conv2d.padding})
LINEAR = aten.linear.default
WEIGHTED = CONVOLUTIONS | {LINEAR}
BATCH_NORM = aten.batch_norm.default
ADDITIONS = frozenset({aten.add.Tensor, aten.add_.Tensor})
RELU6 = frozenset({aten.relu6.default, aten.relu6_.default})
RELU = frozenset({aten.relu.default, aten.relu_.default})
LIMITS = {
    aten.hardtanh.default: ("min_val", "max_val"),
    aten.hardtanh_.default: ("min_val", "max_val"),
    aten.clamp.default: ("min", "max"),
    aten.clamp_.default: ("min", "max"),
    aten.clamp_min.default: ("min", None),
    aten.clamp_min_.default: ("min", None),
    aten.clamp_max.default: (None, "max"),
    aten.clamp_max_.default: (None, "max"),
}
CLAMPS = RELU | RELU6 | frozenset(LIMITS)
AVERAGES = frozenset(
    {aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default, aten.mean.dim},
)
MAXIMA = frozenset({aten.max_pool2d.default})
PADS = frozenset({aten.pad.default, aten.constant_pad_nd.default})
RESHAPES = frozenset(
    {
        aten.flatten.using_ints,
        aten.view.default,
        aten.reshape.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.unsqueeze.default,
    }
)
DROPOUTS = frozenset(
    {
        aten.dropout.default,
        aten.dropout_.default,
        aten.feature_dropout.default,
        aten.alpha_dropout.default,
    }
)
NO_OPERATION = DROPOUTS | {
    aten.clone.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.detach_.default,
    aten.alias.default,
}
QUANTIZES = frozenset(
    {
        decomposed.quantize_per_tensor.default,
        decomposed.quantize_per_tensor.tensor,
        decomposed.quantize_per_tensor.tensor2,
    }
)
DEQUANTIZES = frozenset(
    {
        decomposed.dequantize_per_tensor.default,
        decomposed.dequantize_per_tensor.tensor,
        decomposed.dequantize_per_tensor.tensor2,
    }
)
DEQUANTIZE_CHANNELS = decomposed.dequantize_per_channel.default
SUPPORTED_FLOAT = (
    WEIGHTED
    | {BATCH_NORM, aten.sym_size.int}
    | ADDITIONS
    | CLAMPS
    | AVERAGES
    | MAXIMA
    | PADS
    | RESHAPES
    | NO_OPERATION
)
"""Operators a float program may use to be quantized and imported."""

REASONS = {
    "softmax": "softmax runs on the host: end the model at the logits",
    "log_softmax": "softmax runs on the host: end the model at the logits",
    "batch_norm": "it follows no convolution or linear layer it could be folded into",
    "conv1d": "only two-dimensional convolutions",
    "conv3d": "only two-dimensional convolutions",
}
"""Why some operators are refused, by name; the rest are `not supported`."""


def is_quantized(program: ExportedProgram) -> bool:
    """Whether `program` holds quantize or dequantize operators, as convert_pt2e leaves them."""
    return any(
        node.op == "call_function" and str(node.target).startswith("quantized_decomposed.")
        for node in program.graph.nodes
    )


def layer_names(program: ExportedProgram) -> tuple[str, ...]:
    """Names of the weighted layers (convolutions, linear layers) of a float or quantized program,
    in execution order; the nodes of the imported graph have the same ones."""
    return tuple(weighted_layers(program.graph.nodes).values())


def weighted_layers(nodes: Iterable[Node]) -> dict[Node, str]:
    """Name of each weighted node: the module path of a layer (`features.0`), or of the module
    around a function and the operator (`block.conv2d`); repeats get `_1`, `_2`, ..."""
    names: dict[Node, str] = {}
    taken: set[str] = set()
    for node in nodes:
        if node.op == "call_function" and node.target in WEIGHTED:
            names[node] = unique(node_path(node, operator_name(node)), taken)
    return names


def node_path(node: Node, fallback: str) -> str:
    """Path of the layer module that a node comes from, else its surrounding module's and
    `fallback`."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path, kind = stack[-1][:2] if stack else ("", "")
    kind = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
    if path and kind.startswith("torch.nn.modules.") and ".container." not in kind:
        return path
    return f"{path}.{fallback}" if path else fallback


def operator_name(node: Node) -> str:
    """`conv2d` of aten.conv2d.default."""
    parts = str(node.target).split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def arguments(node: Node) -> dict[str, Any]:
    """Arguments of a call by the operator's own parameter names, defaults filled in."""
    schema = node.target._schema  # type: ignore[union-attr]
    values = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    values.update(zip((a.name for a in schema.arguments), node.args, strict=False))
    values.update(node.kwargs)
    return values


def value_shape(node: Node) -> tuple[int, ...]:
    """Shape of a node's tensor without the batch dimension; () if it has none."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.ndim == 0:
        return ()
    return tuple(int(size) for size in value.shape[1:])


def constants(program: ExportedProgram) -> dict[str, torch.Tensor]:
    """Parameters, buffers and constants by the name of their placeholder."""
    signature = program.graph_signature
    values: dict[str, torch.Tensor] = {}
    for mapping in (
        signature.inputs_to_parameters,
        signature.inputs_to_buffers,
        signature.inputs_to_lifted_tensor_constants,
    ):
        for placeholder, name in mapping.items():
            tensor = program.state_dict.get(name, program.constants.get(name))
            if isinstance(tensor, torch.Tensor):
                values[placeholder] = tensor.detach()
    return values


def unsupported(nodes: Iterable[Node], supported: frozenset[Any]) -> list[str]:
    """A line `name (operator): reason` for every call of an operator not in `supported`."""
    return [
        f"{node.name} ({operator_name(node)}): "
        f"{REASONS.get(operator_name(node), 'operator not supported')}"
        for node in nodes
        if node.op == "call_function" and node.target not in supported
    ]
