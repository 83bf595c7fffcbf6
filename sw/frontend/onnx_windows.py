# SPDX-License-Identifier: Apache-2.0
"""Windows over an image: their attributes, pooling, and enlarging by whole factors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from .lowering import Padding, Real, Shape, Unsupported, Weight, counted_taps
from .onnx_arrange import as_image, picked, source_shape
from .onnx_axes import ROW_MAJOR
from .onnx_file import OnnxNode
from .onnx_operands import (
    Handler,
    Importer,
    Value,
    activation,
    axis_index,
    constant,
    integers,
    moved,
    operand,
    pending,
    real,
)
from .onnx_values import Activation, Codes

Pair = tuple[int, int]


def pair(node: OnnxNode, attribute: str, default: Pair = (1, 1), least: int = 1) -> Pair:
    """For rows and columns; of one axis, for columns."""
    values = node.attributes.get(attribute)
    if not values:
        return default
    values = [least, *values] if len(values) == 1 else values
    if len(values) != 2 or min(values) < least:
        raise Unsupported(f"{attribute} must be two integers, {least} or more, not {values}")
    return (int(values[0]), int(values[1]))


def kernel_of(node: OnnxNode, attribute: str, default: Pair) -> Pair:
    return pair(node, attribute, default)


def spatial(source: Activation) -> Pair:
    """Height and width of an operand from `as_image`, zeros around it included."""
    return (1, source.shape[2]) if len(source.shape) == 3 else (source.shape[2], source.shape[3])


def window(
    node: OnnxNode, size: Pair, kernel: Pair, stride: Pair, dilation: Pair
) -> tuple[Padding, Pair]:
    """Padding and output size of a window, with `auto_pad` and `ceil_mode` resolved."""
    pads = [int(p) for p in node.attributes.get("pads") or (0, 0, 0, 0)]
    mode = node.attributes.get("auto_pad", "NOTSET")
    if len(pads) == 2:
        pads = [0, pads[0], 0, pads[1]]
    if len(pads) != 4 or min(pads) < 0:
        raise Unsupported(f"pads must be four integers, 0 or more, not {pads}")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        for i in range(2):
            extent = dilation[i] * (kernel[i] - 1) + 1
            total = max(0, (-(-size[i] // stride[i]) - 1) * stride[i] + extent - size[i])
            less, more = total // 2, total - total // 2
            pads[i], pads[i + 2] = (less, more) if mode == "SAME_UPPER" else (more, less)
    elif mode == "VALID":
        pads = [0, 0, 0, 0]
    elif mode not in ("NOTSET", ""):
        raise Unsupported(f"auto_pad {mode!r}")
    sizes = []
    for i in range(2):
        span = size[i] + pads[i] + pads[i + 2] - dilation[i] * (kernel[i] - 1) - 1
        positions = span // stride[i] + 1
        if node.attributes.get("ceil_mode"):
            positions = -(-span // stride[i]) + 1
            if (positions - 1) * stride[i] >= size[i] + pads[i]:
                positions -= 1
        if positions < 1:
            raise Unsupported(f"window {kernel} is larger than the image {size}")
        sizes.append(positions)
    return (pads[0], pads[1], pads[2], pads[3]), (sizes[0], sizes[1])


def _reach(
    size: Pair, outputs: Pair, kernel: Pair, stride: Pair, dilation: Pair, padding: Padding
) -> Padding:
    """Padding with as much at the bottom and right as the windows reach."""
    ends = []
    for i in range(2):
        extent = (outputs[i] - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1
        ends.append(max(0, extent - size[i] - padding[i]))
    return (padding[0], padding[1], ends[0], ends[1])


def max_pool(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Activation:
    source = as_image(importer, operands[0])
    size = spatial(source)
    kernel = size if node.operator == "GlobalMaxPool" else pair(node, "kernel_shape", size)
    stride, dilation = pair(node, "strides"), pair(node, "dilations")
    padding, (rows, columns) = window(node, size, kernel, stride, dilation)
    padding = _reach(size, (rows, columns), kernel, stride, dilation, padding)
    shape = (rows, columns, source.image[2])
    result_shape = source_shape(source, shape)
    if kernel == (1, 1):
        if any(padding[:2]):
            raise Unsupported("padding around a window of one pixel")
        name, step = importer.name(node), (*stride, 1)
        return moved(
            importer, source,
            lambda x: importer.builder.slice(x, name, (0, 0, 0), step, shape),
            shape=result_shape.shape, axes=result_shape.axes, image=shape,
        )  # fmt: skip
    codes = source.value if isinstance(source.value, Codes) else None
    before = codes.real() if codes else pending(source)
    if isinstance(before, Real):
        tensor = real(importer, source.like(value=before)).tensor
    result = importer.builder.maximum(
        tensor if isinstance(before, Real) else before, importer.name(node), shape=shape,
        kernel=kernel, stride=stride, padding=padding, dilation=dilation,
    )  # fmt: skip
    if codes:
        return result_shape.like(value=Codes(result.finish, codes.quantization))
    return result_shape.like(value=result)


def average_pool(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Activation:
    source = as_image(importer, operands[0])
    size = spatial(source)
    if node.operator.endswith("GlobalAveragePool"):
        return averaged(importer, node, source, size)
    kernel, stride = pair(node, "kernel_shape", size), pair(node, "strides")
    dilation = pair(node, "dilations")
    given, outputs = window(node, size, kernel, stride, dilation)
    padding = _reach(size, outputs, kernel, stride, dilation, given)
    tensor = real(importer, source)
    shape = (*outputs, source.image[2])
    counted = bool(node.attributes.get("count_include_pad"))
    inside = [
        counted_taps(
            size[i], padding[i], dilation[i] * (kernel[i] - 1) + 1, stride[i], outputs[i],
            (given[i], given[i + 2]) if counted else (0, 0),
        )
        for i in range(2)
    ]  # fmt: skip
    if dilation == (1, 1):
        counts = (inside[0], inside[1])
        result = importer.builder.average(
            tensor.tensor, importer.name(node), shape=shape, kernel=kernel, stride=stride,
            padding=padding, counts=counts,
        )  # fmt: skip
    else:
        for i in range(2):
            if set(inside[i]) != {dilation[i] * (kernel[i] - 1) + 1}:
                raise Unsupported("dilated averages with padding that does not count")
        ones = np.ones((source.image[2], *kernel, 1), np.int64)
        scales = np.full(source.image[2], 1 / math.prod(kernel))
        result = importer.builder.convolution(
            tensor, importer.name(node), Weight(ones, scales, 2), None, shape=shape,
            stride=stride, padding=padding, dilation=dilation, groups=source.image[2],
            operator="depthwise" if source.image[2] > 1 else "conv",
        )  # fmt: skip
    return source_shape(source, shape).like(value=result)


def averaged(importer: Importer, node: OnnxNode, source: Activation, kernel: Pair) -> Activation:
    """The mean of the whole image, or of every row or column."""
    tensor = real(importer, source)
    size = source.image
    shape = (size[0] // kernel[0], size[1] // kernel[1], size[2])
    result = importer.builder.average(
        tensor.tensor, importer.name(node), shape=shape, kernel=kernel,
        divisor=kernel[0] * kernel[1],
    )  # fmt: skip
    return source_shape(source, shape).like(value=result)


def mean(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Activation:
    """ReduceMean and ReduceSum over any axes but the batch."""
    source = activation(operands[0])
    axes = integers(node, operands, 1, "axes")
    dimensions = len(source.shape)
    if not axes:
        axes = [] if node.attributes.get("noop_with_empty_axes") else list(range(dimensions))
    reduced = {axis_index(a, dimensions) for a in axes}
    letters = "".join(source.axes[a] for a in reduced)
    if "N" in letters:
        raise Unsupported("a mean or sum over the batch")
    height, width, channels = source.image
    kernel = (height if "H" in letters else 1, width if "W" in letters else 1)
    depth = 1 if "C" in letters else channels
    count = math.prod(kernel) * (channels // depth)
    divisor = 1 if node.operator == "ReduceSum" else count
    tensor = real(importer, source)
    shape = (height // kernel[0], width // kernel[1], depth)
    if depth == channels:
        result = importer.builder.average(
            tensor.tensor, importer.name(node), shape=shape, kernel=kernel, divisor=divisor
        )
    else:
        ones = Weight(np.ones((1, *kernel, channels), np.int64), np.full(1, 1 / divisor), 2)
        result = importer.builder.convolution(tensor, importer.name(node), ones, None, shape=shape)
    kept = [i for i in range(dimensions) if node.attributes.get("keepdims", 1) or i not in reduced]
    return Activation(
        result,
        tuple(1 if i in reduced else source.shape[i] for i in kept),
        tuple("" if i in reduced else source.axes[i] for i in kept),
        shape,
    )


def resize(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Activation:
    """Nearest neighbour, where that repeats pixels or picks every so many."""
    source = activation(operands[0])
    if node.attributes.get("mode", "nearest") != "nearest":
        raise Unsupported(f"mode {node.attributes.get('mode')!r}; only nearest")
    dimensions = len(source.shape)
    chosen = node.attributes.get("axes")
    axes = (
        list(range(dimensions)) if chosen is None else [axis_index(a, dimensions) for a in chosen]
    )
    wanted, scales = _resized(node, operands, [source.shape[a] for a in axes])
    factors, starts, steps = {}, {}, {}
    pixels = {letter: list(range(size)) for letter, size in source.sizes.items()}
    irregular = False
    for axis, size, scale in zip(axes, wanted, scales, strict=True):
        before = source.shape[axis]
        if size == before and scale == 1:
            continue
        index = _sampled(
            node, before, size, scale, node.operator == "Upsample" or importer.opset < 11
        )
        letter = source.axes[axis] or _free_letter(source, axis)
        if letter not in ("H", "W"):
            raise Unsupported("resizing anything but height and width")
        rate = np.diff(index)
        if size % before == 0 and (index == np.arange(size) // (size // before)).all():
            factors[letter] = size // before
        elif size >= 1 and (rate > 0).all() and len(set(rate.tolist())) <= 1:
            starts[letter], steps[letter] = int(index[0]), int(rate[0]) if size > 1 else 1
        else:
            irregular = True
        pixels[letter] = index.tolist()
    sizes = dict(zip(axes, wanted, strict=True))
    if irregular:
        result = picked(importer, importer.name(node), source, [pixels[x] for x in ROW_MAJOR])
        return _resized_axes(source, result, sizes)
    return _sampled_image(importer, node, source, factors, starts, steps, sizes)


def _free_letter(source: Activation, axis: int) -> str:
    """For an axis of size 1: the letter that would stand there."""
    order = "NCHW" if len(source.shape) == 4 else "NCW"
    letter = order[axis] if axis < len(order) else ""
    return letter if letter not in "".join(source.axes) else ""


def _resized(
    node: OnnxNode, operands: Sequence[Value], before: Sequence[int]
) -> tuple[list[int], list[float]]:
    """Sizes and scales of the axes."""
    index = 1 if len(operands) <= 2 else 2
    if node.operator == "Upsample" or index == 1:
        given, sizes = operand(operands, 1), None
        if given is None:
            given = np.asarray(node.attributes.get("scales") or [], np.float32)
    else:
        given, sizes = operand(operands, 2), operand(operands, 3)
    if sizes is not None:
        wanted = [int(v) for v in constant(sizes, "sizes").reshape(-1)]
        if len(wanted) != len(before) or min(wanted) < 1:
            raise Unsupported(f"sizes {wanted} for {len(before)} axes")
        scales = [new / old for new, old in zip(wanted, before, strict=True)]
        policy = node.attributes.get("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            pick = min if policy == "not_larger" else max
            scales = [pick(scales)] * len(scales)
            wanted = [int(math.floor(s * b + 0.5)) for s, b in zip(scales, before, strict=True)]
    else:
        values = constant(given, "scales").reshape(-1)
        scales = [float(v) for v in values]
        if len(scales) != len(before) or not all(0 < s < 1 << 20 for s in scales):
            raise Unsupported(f"scales {scales} for {len(before)} axes")
        wanted = [math.floor(b * s) for b, s in zip(before, scales, strict=True)]
    if any(not 0 < size < 1 << 20 for size in wanted):
        raise Unsupported(f"sizes {wanted}")
    return wanted, scales


def _sampled(
    node: OnnxNode, before: int, after: int, scale: float, legacy: bool
) -> NDArray[np.int64]:
    """The pixel each new pixel is taken from, as ONNX defines it; `legacy`: before Resize-11."""
    default = ("asymmetric", "floor") if legacy else ("half_pixel", "round_prefer_floor")
    mode = node.attributes.get("coordinate_transformation_mode", default[0])
    rounding = node.attributes.get("nearest_mode", default[1])
    new = np.arange(after, dtype=np.float64)
    if mode == "half_pixel" or mode == "pytorch_half_pixel" and after > 1:
        old = (new + 0.5) / scale - 0.5
    elif mode == "pytorch_half_pixel":
        old = np.zeros(after)
    elif mode == "half_pixel_symmetric":
        offset = before / 2 * (1 - after / (scale * before))
        old = offset + (new + 0.5) / scale - 0.5
    elif mode == "asymmetric":
        old = new / scale
    elif mode == "align_corners":
        old = new * ((before - 1) / (after - 1)) if after > 1 else np.zeros(after)
    else:
        raise Unsupported(f"coordinate transformation {mode!r}")
    roundings: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
        "round_prefer_floor": lambda v: np.ceil(v - 0.5),
        "round_prefer_ceil": lambda v: np.floor(v + 0.5),
        "floor": np.floor,
        "ceil": np.ceil,
    }
    if rounding not in roundings:
        raise Unsupported(f"nearest mode {rounding!r}")
    return np.clip(roundings[rounding](old), 0, before - 1).astype(np.int64)


def _sampled_image(
    importer: Importer, node: OnnxNode, source: Activation, factors: dict[str, int],
    starts: dict[str, int], steps: dict[str, int], wanted: dict[int, int],
) -> Activation:  # fmt: skip
    height, width, channels = source.image
    name = importer.name(node)
    shape = tuple(wanted.get(i, size) for i, size in enumerate(source.shape))
    sizes = {"H": height, "W": width}
    result = source
    if starts:
        for letter in starts:
            sizes[letter] = shape[source.axes.index(letter)]
        start = (starts.get("H", 0), starts.get("W", 0), 0)
        step = (steps.get("H", 1), steps.get("W", 1), 1)
        small: Shape = (sizes["H"], sizes["W"], channels)
        result = moved(
            importer, result, lambda x: importer.builder.slice(x, name, start, step, small)
        )
    if factors:
        factor = (factors.get("H", 1), factors.get("W", 1))
        result = moved(
            importer, result, lambda x: importer.builder.upsample_nearest(x, name, factor)
        )
        sizes = {"H": sizes["H"] * factor[0], "W": sizes["W"] * factor[1]}
    return _resized_axes(source, result.like(image=(sizes["H"], sizes["W"], channels)), wanted)


def _resized_axes(source: Activation, result: Activation, wanted: dict[int, int]) -> Activation:
    """`result` with the shape and the axes that `source` has with other sizes."""
    shape = tuple(wanted.get(i, size) for i, size in enumerate(source.shape))
    axes = list(source.axes)
    for i in wanted:
        axes[i] = (source.axes[i] or _free_letter(source, i)) if shape[i] > 1 else ""
    return result.like(shape=shape, axes=tuple(axes))


WINDOWS: dict[str, Handler] = {
    "MaxPool": max_pool,
    "GlobalMaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": average_pool,
    "ReduceMean": mean,
    "ReduceSum": mean,
    "Resize": resize,
    "Upsample": resize,
}
