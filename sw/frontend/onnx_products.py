# SPDX-License-Identifier: Apache-2.0
"""Convolutions, linear layers and what is joined with them: biases, batch normalization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..graph.validate import output_size
from .lowering import Pending, Real, Shape, Unsupported, Weight
from .onnx_arrange import as_image, as_matrix, as_vector, source_shape
from .onnx_file import OnnxNode
from .onnx_operands import (
    Handler,
    Importer,
    Value,
    activation,
    array,
    constant,
    curve,
    operand,
    pending,
    real,
    table,
)
from .onnx_values import WIDE, WIDTHS, Activation, Affine, Quantized, fits
from .onnx_windows import kernel_of, pair, spatial, window


def bias_values(value: Value, unit: NDArray[np.float64]) -> NDArray | None:
    """Integers where the bias is quantized in `unit`, the accumulator's; else real values."""
    if value is None:
        return None
    if isinstance(value, Quantized):
        scales = np.broadcast_to(value.scales, unit.shape) if value.scales.size in (
            1, unit.size) else None  # fmt: skip
        if scales is not None and np.allclose(scales, unit, rtol=1e-6, atol=0):
            return _channels(value.codes, unit.size)
        return _channels(value.real(), unit.size)
    return _channels(array(value, "bias"), unit.size)


def _channels(values: NDArray, channels: int) -> NDArray:
    """One value a channel, of an array that broadcasts like one."""
    if values.size not in (1, channels):
        raise Unsupported(f"bias of shape {values.shape} for {channels} output channels")
    kind = np.int32 if values.dtype.kind in "iu" else np.float64
    return np.broadcast_to(values.reshape(-1).astype(kind), channels)


def product(
    importer: Importer, source: Real, name: str, weight: Weight, bias: Value, shape: Shape,
    transposed: bool = False, **options: Any,
) -> tuple[Pending, Affine]:  # fmt: skip
    """A convolution or linear layer, and how to scale and shift it before it is quantized."""
    channels = weight.codes.shape[0]
    spec = importer.builder.tensors[source.tensor]
    build = importer.builder.transposed_convolution if transposed else importer.builder.convolution

    def make(factor: NDArray[np.float64], addend: Any) -> Pending:
        made = weight if (factor == 1).all() else _scaled(weight, factor)
        unit = spec.scale * made.scales
        own = bias_values(bias, spec.scale * weight.scales)
        joined = own
        if own is not None and (factor != 1).any():
            joined = own * np.sign(factor).astype(np.int32) if own.dtype.kind == "i" else (
                own * factor)  # fmt: skip
        more = bias_values(addend, unit)
        if joined is None or more is None:
            joined = more if joined is None else joined
        elif joined.dtype.kind == more.dtype.kind == "i":
            total = joined.astype(np.int64) + more
            if (total != total.astype(np.int32)).any():
                raise Unsupported("the sum of its biases exceeds 32 bits")
            joined = total.astype(np.int32)
        else:
            parts = [p * unit if p.dtype.kind == "i" else p for p in (joined, more)]
            joined = parts[0] + parts[1]
        # A real bias keeps ONNX Runtime from its integer kernels, which scale in float32.
        integer = joined is None or joined.dtype.kind == "i"
        operand, chosen = source, options
        if made.bits == WIDE:
            operand, made = _split(importer, source, name, made, options.get("groups", 1))
            if options.get("operator") == "depthwise":
                chosen = options | {"operator": "conv"}
        return build(
            operand, name, made, joined, shape=shape,
            single_precision=integer and (factor == 1).all() and not transposed, **chosen,
        )  # fmt: skip

    affine = Affine(make, channels, np.ones(channels))
    return make(affine.factor, None), affine


def _scaled(weight: Weight, factor: NDArray[np.float64]) -> Weight:
    """`weight` times a factor a channel; signs go to the codes."""
    codes = weight.codes * np.sign(factor).astype(np.int64).reshape(-1, 1, 1, 1)
    low, high = int(codes.min(initial=0)), int(codes.max(initial=0))
    widths = [bits for bits in WIDTHS if bits >= weight.bits and fits(low, high, bits)]
    if not np.isfinite(factor).all():
        raise Unsupported("a factor that is not finite")
    scales = np.where(factor == 0, weight.scales, weight.scales * np.abs(factor))
    return Weight(codes, scales, [*widths, WIDE][0])


def _split(
    importer: Importer, source: Real, name: str, weight: Weight, groups: int
) -> tuple[Real, Weight]:
    """Weights that exceed a byte, because their zero-point is not 0, as the sum of several that do
    not, each for its own copy of the input's channels."""
    parts: list[NDArray[np.int64]] = []
    rest = weight.codes
    while rest.any() or not parts:
        parts.append(np.clip(rest, -128, 127))
        rest = rest - parts[-1]
    channels = importer.builder.tensors[source.tensor].shape[2] // groups
    order = [
        group * channels + i for group in range(groups) for _ in parts for i in range(channels)
    ]
    copies = importer.builder.gather(source.tensor, f"{name}_copies", order)
    tensor = copies.finish(importer.builder.quantizations[source.tensor])
    return Real(tensor, source.padding), Weight(np.concatenate(parts, 3), weight.scales, 8)


def constant_weight(value: Value, *dimensions: int) -> Quantized:
    if not isinstance(value, Quantized):
        raise Unsupported(
            "its weight is not quantized" if not isinstance(value, Activation)
            else "both operands depend on the input; one must be a constant"
        )  # fmt: skip
    if value.codes.ndim not in dimensions or 0 in value.codes.shape:
        raise Unsupported(f"weight of shape {value.codes.shape}")
    return value


def _kernel(codes: NDArray) -> NDArray:
    """(out, in, kernel...) to (out, kernel_h, kernel_w, in); one row where there is one axis."""
    if codes.ndim == 3:
        codes = codes[:, :, None]
    return codes.transpose(0, 2, 3, 1)


def convolution(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Activation:
    source = as_image(importer, operands[0], padded=True)
    weight = constant_weight(operands[1], len(source.shape)).weight()
    codes = _kernel(weight.codes)
    kernel = (codes.shape[1], codes.shape[2])
    stride, dilation = pair(node, "strides"), pair(node, "dilations")
    groups = int(node.attributes.get("group", 1))
    padding, _ = window(node, spatial(source), kernel, stride, dilation)
    tensor = real(importer, source, padded=True)
    height, width, channels = importer.builder.tensors[tensor.tensor].shape
    top, left, bottom, right = (a + b for a, b in zip(padding, tensor.padding, strict=True))
    extents = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    if max(top, bottom) >= extents[0] or max(left, right) >= extents[1]:
        tensor = real(importer, source)
        height, width, channels = importer.builder.tensors[tensor.tensor].shape
        top, left, bottom, right = padding
    rows = output_size(height, top, bottom, kernel[0], stride[0], dilation[0])
    columns = output_size(width, left, right, kernel[1], stride[1], dilation[1])
    shape = (rows, columns, codes.shape[0])
    value, affine = product(
        importer, tensor, importer.name(node), Weight(codes, weight.scales, weight.bits),
        operand(operands, 2), shape, stride=stride, padding=padding, dilation=dilation,
        groups=groups, operator="depthwise" if groups == channels > 1 else "conv",
    )  # fmt: skip
    return source_shape(source, shape).like(value=value, affine=affine)


def transposed_convolution(
    importer: Importer, node: OnnxNode, operands: Sequence[Value]
) -> Activation:
    source = as_image(importer, operands[0])
    constant = constant_weight(operands[1], len(source.shape))
    groups = int(node.attributes.get("group", 1))
    channels, depth, *kernel_shape = constant.codes.shape
    if groups < 1 or channels % groups or channels != source.image[2]:
        raise Unsupported(
            f"weight for {channels} input channels in {groups} groups, there are {source.image[2]}"
        )
    scales = constant.scales
    if scales.size > 1 and constant.axis != 1:
        raise Unsupported("weight scales are not along the output channels")
    # (groups, in, out, kernel) to (groups * out, in, kernel), turned around.
    codes = constant.codes.reshape(groups, channels // groups, depth, *kernel_shape)
    codes = codes.swapaxes(1, 2).reshape(groups * depth, channels // groups, *kernel_shape)
    codes = np.flip(codes, tuple(range(2, codes.ndim)))
    axis_scales = np.tile(np.broadcast_to(scales, depth), groups)
    weight = Quantized(codes, axis_scales, 0, constant.low, constant.high).weight()
    codes = _kernel(weight.codes)
    stride, dilation = pair(node, "strides"), pair(node, "dilations")
    size, cut = _transposed_window(node, source, (codes.shape[1], codes.shape[2]), stride, dilation)
    tensor = real(importer, source)
    shape = (*size, codes.shape[0])
    value, affine = product(
        importer, tensor, importer.name(node), Weight(codes, weight.scales, weight.bits),
        operand(operands, 2), shape, transposed=True, stride=stride, padding=(*cut, 0, 0),
        dilation=dilation, groups=groups,
    )  # fmt: skip
    return source_shape(source, shape).like(value=value, affine=affine)


def _transposed_window(
    node: OnnxNode, source: Activation, kernel: tuple[int, int], stride: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[tuple[int, int], tuple[int, int]]:  # fmt: skip
    """Output size, and rows and columns cut off at the top and left."""
    given = kernel_of(node, "kernel_shape", kernel)
    if given != kernel:
        raise Unsupported(f"kernel_shape {given} of a weight of {kernel}")
    extra = pair(node, "output_padding", (0, 0), least=0)
    wanted = node.attributes.get("output_shape")
    mode = node.attributes.get("auto_pad", "NOTSET")
    count = len(source.shape) - 2
    pads = [int(p) for p in node.attributes.get("pads") or [0] * (2 * count)]
    if len(pads) != 2 * count or min(pads) < 0:
        raise Unsupported(f"pads must be {2 * count} integers, 0 or more, not {pads}")
    if count == 1:
        pads = [0, pads[0], 0, pads[1]]
    sizes, cuts = [], []
    rows = spatial(source)
    for i in range(2):
        full = stride[i] * (rows[i] - 1) + extra[i] + dilation[i] * (kernel[i] - 1) + 1
        if mode in ("SAME_UPPER", "SAME_LOWER") or wanted is not None:
            size = rows[i] * stride[i]
            if wanted is not None:
                size = 1 if count == 1 and i == 0 else int(wanted[i - 2])
            total = max(0, full - size)
            before = total // 2 if mode == "SAME_UPPER" else total - total // 2
        elif mode in ("NOTSET", "", "VALID"):
            both = (0, 0) if mode == "VALID" else (pads[i], pads[i + 2])
            size, before = full - sum(both), both[0]
        else:
            raise Unsupported(f"auto_pad {mode!r}")
        if size < 1 or size > full + stride[i]:
            raise Unsupported(f"output of {size} rows or columns")
        sizes.append(size)
        cuts.append(before)
    return (sizes[0], sizes[1]), (cuts[0], cuts[1])


def gemm(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Activation:
    attributes = node.attributes
    if attributes.get("transA"):
        raise Unsupported("transA: the batch would be summed over")
    bias, beta = operand(operands, 2), float(attributes.get("beta", 1.0))
    if bias is not None and beta != 1.0:
        bias = constant(bias, "bias") * beta
    weight = constant_weight(operands[1], 2)
    if not attributes.get("transB"):
        weight = weight.transposed((1, 0))
    return linear(importer, node, operands[0], weight, bias, float(attributes.get("alpha", 1.0)))


def matrix_product(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Activation:
    weight = constant_weight(operands[1], 2).transposed((1, 0))
    return linear(importer, node, operands[0], weight, None)


def linear(
    importer: Importer, node: OnnxNode, value: Value, weight: Quantized, bias: Value,
    alpha: float = 1.0,
) -> Activation:  # fmt: skip
    """`weight`: (out_channels, features). Over the last axis; a 1x1 convolution where there is
    more than one row."""
    source = activation(value)
    if len(source.shape) < 2:
        raise Unsupported("input must be (batch, features)")
    rows, features = weight.codes.shape
    if features != source.shape[-1]:
        raise Unsupported(f"weight for {features} features, there are {source.shape[-1]}")
    made = weight.weight()
    if len(source.shape) == 2:
        source, codes = as_vector(importer, source, made.codes)
        shape = (1, 1, rows)
        kernel = "linear"
    else:
        source = as_matrix(importer, source)
        codes = made.codes.reshape(rows, 1, 1, features)
        shape, kernel = (*source.image[:2], rows), "conv"
    axes = (*source.axes[:-1], "C" if rows > 1 else "")
    tensor = real(importer, source)
    result, affine = product(
        importer, tensor, importer.name(node), Weight(codes, made.scales, made.bits), bias, shape,
        operator=kernel,
    )  # fmt: skip
    if alpha != 1.0:
        plain = product(
            importer, tensor, importer.name(node), Weight(codes, made.scales, made.bits), None,
            shape, operator=kernel,
        )[1]  # fmt: skip
        affine, result = plain.then(np.full(rows, alpha), bias)
    return Activation(result, (*source.shape[:-1], rows), axes, shape, affine)


def scaled_shifted(
    importer: Importer, node: OnnxNode, source: Activation, factor: NDArray, addend: Value
) -> Activation:
    """`source` times `factor` plus `addend`, one value or one a channel: joined with the product it
    comes from, or a product of its own."""
    affine = source.affine
    if affine is None:
        value = pending(source)
        exact = isinstance(value, Real) or value.source is not None
        found = None if exact else curve(importer, source)
        if found is not None and factor.size == 1 and (addend is None or addend.size == 1):
            tensor, values = found
            scaled = values * np.float32(factor[0])
            if addend is not None:
                scaled = scaled + np.float32(constant(addend, "operand").reshape(-1)[0])
            made = table(importer, tensor, importer.name(node), scaled, "scale")
            return source.like(value=made)
        affine = _plain(importer, real(importer, source).tensor, importer.name(node))
    joined, result = affine.then(factor, addend)
    return source.like(value=result, affine=joined)


def _plain(importer: Importer, tensor: str, name: str) -> Affine:
    """How to scale and shift a tensor of the graph."""
    channels = importer.builder.tensors[tensor].shape[2]

    def make(factor: NDArray[np.float64], addend: Any) -> Pending:
        shift = 0.0 if addend is None else constant(addend, "operand").reshape(-1)
        return importer.builder.scale_shift(tensor, name, factor, shift)

    return Affine(make, channels, np.ones(channels))


def batch_normalization(
    importer: Importer, node: OnnxNode, operands: Sequence[Value]
) -> Activation:
    if node.attributes.get("training_mode") or node.attributes.get("spatial", 1) == 0:
        raise Unsupported("batch normalization in training mode, or not by channels")
    source = activation(operands[0])
    scale, shift, mean, variance = (
        constant(operand(operands, i), what).astype(np.float64).reshape(-1)
        for i, what in enumerate(("scale", "bias", "mean", "variance"), 1)
    )
    root = np.sqrt(variance + float(node.attributes.get("epsilon", 1e-5)))
    if not ({scale.size, shift.size, mean.size, variance.size} == {source.shape[1]}
            and (root > 0).all()):  # fmt: skip
        raise Unsupported("parameters that are not one a channel, or no positive variance")
    if source.axes[1] not in ("C", ""):
        raise Unsupported("axis 1 holds no channels")
    factor = scale / root
    return scaled_shifted(importer, node, source, factor, shift - mean * factor)


PRODUCTS: dict[str, Handler] = {
    "Conv": convolution,
    "ConvTranspose": transposed_convolution,
    "Gemm": gemm,
    "MatMul": matrix_product,
    "BatchNormalization": batch_normalization,
}
