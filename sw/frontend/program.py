# SPDX-License-Identifier: Apache-2.0
"""What Bitloop knows of `torch.export` programs: operators, layer names, arguments, constants."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # noqa: F401  registers quantized_decomposed
from torch.export import ExportedProgram
from torch.fx import Node

from .names import unique

aten = torch.ops.aten
decomposed = torch.ops.quantized_decomposed

CONVOLUTIONS = frozenset(
    {aten.conv2d.default, aten.conv2d.padding, aten.conv1d.default, aten.conv1d.padding}
)
TRANSPOSED = frozenset({aten.conv_transpose2d.input, aten.conv_transpose1d.default})
LINEAR = aten.linear.default
WEIGHTED = CONVOLUTIONS | TRANSPOSED | {LINEAR}
BATCH_NORM = aten.batch_norm.default
ADDITIONS = frozenset({aten.add.Tensor, aten.add_.Tensor})
ARITHMETIC = ADDITIONS | {
    aten.sub.Tensor, aten.sub_.Tensor, aten.rsub.Scalar, aten.mul.Tensor, aten.mul_.Tensor,
    aten.div.Tensor, aten.div_.Tensor,
}  # fmt: skip
NEGATION = frozenset({aten.neg.default, aten.neg_.default})
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
TABLES = frozenset(
    {
        aten.sigmoid.default, aten.sigmoid_.default, aten.tanh.default, aten.tanh_.default,
        aten.hardsigmoid.default, aten.hardsigmoid_.default, aten.hardswish.default,
        aten.hardswish_.default, aten.silu.default, aten.silu_.default, aten.gelu.default,
        aten.gelu_.default, aten.leaky_relu.default, aten.leaky_relu_.default, aten.elu.default,
        aten.elu_.default, aten.selu.default, aten.selu_.default, aten.celu.default,
        aten.celu_.default, aten.prelu.default, aten.softplus.default, aten.mish.default,
        aten.mish_.default, aten.log_sigmoid.default, aten.hardshrink.default,
        aten.softshrink.default, aten.threshold.default, aten.threshold_.default, aten.exp.default,
        aten.log.default, aten.sqrt.default, aten.rsqrt.default, aten.abs.default,
        aten.square.default, aten.pow.Tensor_Scalar, aten.reciprocal.default, aten.sin.default,
        aten.cos.default, aten.erf.default, aten.floor.default, aten.ceil.default,
        aten.round.default, aten.sign.default, aten.maximum.default, aten.minimum.default,
    }
)  # fmt: skip
"""Functions of one value (with constants), which become tables of 256 codes."""
AVERAGES_WINDOW = frozenset({aten.avg_pool2d.default, aten.avg_pool1d.default})
AVERAGES_ADAPTIVE = frozenset({aten.adaptive_avg_pool2d.default, aten.adaptive_avg_pool1d.default})
AVERAGES = AVERAGES_WINDOW | AVERAGES_ADAPTIVE | {aten.mean.dim}
MAXIMA_ADAPTIVE = frozenset({aten.adaptive_max_pool2d.default, aten.adaptive_max_pool1d.default})
MAXIMA = MAXIMA_ADAPTIVE | {
    aten.max_pool2d.default, aten.max_pool1d.default, aten.amax.default
}  # fmt: skip
PADS = frozenset({aten.pad.default, aten.constant_pad_nd.default})
CONCATENATIONS = frozenset({aten.cat.default, aten.concat.default})
UPSAMPLINGS = frozenset({aten.upsample_nearest2d.vec, aten.upsample_nearest1d.vec})
SPLITS = frozenset(
    {aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default, aten.split.sizes}
)
MOVEMENTS = frozenset(
    {
        aten.flatten.using_ints, aten.view.default, aten.reshape.default, aten.squeeze.dim,
        aten.squeeze.dims, aten.squeeze.default, aten.unsqueeze.default, aten.unflatten.int,
        aten.permute.default, aten.transpose.int, aten.swapaxes.default, aten.movedim.int,
        aten.t.default, aten.slice.Tensor, aten.select.int, aten.narrow.default,
        aten.repeat_interleave.self_int, aten.expand.default, aten.repeat.default,
        aten.pixel_shuffle.default, aten.pixel_unshuffle.default, aten.channel_shuffle.default,
    }
)  # fmt: skip
"""Operators that only move values: followed place by place."""
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
    aten.lift_fresh_copy.default,
    aten.to.dtype_layout,
    aten.to.dtype,
    aten._to_copy.default,
}
ASSERTIONS = frozenset({aten._assert_tensor_metadata.default})
HOST = {
    aten.softmax.int: "softmax",
    aten.log_softmax.int: "log_softmax",
    aten.argmax.default: "argmax",
}
CREATIONS = frozenset(
    {
        aten.ones.default, aten.zeros.default, aten.full.default, aten.scalar_tensor.default,
        aten.arange.default,
    }
)  # fmt: skip
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
    | {BATCH_NORM, aten.sym_size.int, operator.getitem}
    | ARITHMETIC
    | NEGATION
    | CLAMPS
    | TABLES
    | AVERAGES
    | MAXIMA
    | PADS
    | CONCATENATIONS
    | UPSAMPLINGS
    | SPLITS
    | MOVEMENTS
    | NO_OPERATION
    | ASSERTIONS
    | frozenset(HOST)
    | CREATIONS
)
"""Operators a float program may use to be quantized and imported."""

PRODUCT = (
    "a product of two activations (squeeze-and-excitation, attention): the core multiplies "
    "activations by constants only"
)
REASONS = {
    "conv3d": "only one- and two-dimensional convolutions",
    "conv_transpose3d": "only one- and two-dimensional convolutions",
    "matmul": PRODUCT,
    "bmm": PRODUCT,
    "scaled_dot_product_attention": PRODUCT,
    "layer_norm": "it needs the mean and variance of its input while running",
    "group_norm": "it needs the mean and variance of its input while running",
    "instance_norm": "it needs the mean and variance of its input while running",
    "upsample_bilinear2d": "only nearest-neighbour upsampling",
    "upsample_bicubic2d": "only nearest-neighbour upsampling",
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
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {}
    values = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    values.update(zip((a.name for a in schema.arguments), node.args, strict=False))
    values.update(node.kwargs)
    return values


def value_shape(node: Node) -> tuple[int, ...]:
    """Shape of a node's (first) tensor without the batch dimension; () if it has none."""
    value = node.meta.get("val")
    if isinstance(value, tuple | list) and value:
        value = value[0]
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
