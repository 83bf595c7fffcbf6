# SPDX-License-Identifier: Apache-2.0
"""ONNX operators that take tensors apart and put them together."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from .lowering import Padding, Real, Unsupported
from .onnx_arrange import arranged, picked
from .onnx_file import OnnxNode
from .onnx_operands import (
    SMALL,
    Handler,
    Importer,
    Results,
    Value,
    activation,
    array,
    axis_index,
    constant,
    integers,
    moved,
    operand,
    real,
    shared,
)
from .onnx_values import Activation, Codes


def concatenation(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Activation:
    sources = [activation(value, "operand") for value in operands]
    axis = axis_index(node.attributes.get("axis", 1), len(sources[0].shape))
    return joined(importer, node, sources, axis)


def joined(
    importer: Importer, node: OnnxNode, sources: Sequence[Activation], axis: int
) -> Activation:
    """One after the other along an axis, which becomes the channels."""
    first = sources[0]
    dimensions = len(first.shape)
    if not any("N" in source.axes[0] for source in sources) and (axis == 0 or first.axes[0]):
        wide = [s.like(shape=(1, *s.shape), axes=("", *s.axes)) for s in sources]
        result = joined(importer, node, wide, axis + 1)
        return result.like(shape=result.shape[1:], axes=result.axes[1:])
    others = [i for i in range(1, dimensions) if i != axis]
    if axis == 0 or len(others) > 2:
        raise Unsupported(f"concatenation along axis {axis} of {dimensions} dimensions")
    rows = others[0] if len(others) == 2 else None
    columns = others[-1] if others else None
    parts = []
    for source in sources:
        pairs = zip(source.shape, first.shape, strict=False)
        if len(source.shape) != dimensions or any(
            a != b and i != axis for i, (a, b) in enumerate(pairs)
        ):
            raise Unsupported(f"concatenation of {first.shape} and {source.shape}")
        parts.append(arranged(importer, source, rows, columns, axis))
    codes = [part.value for part in parts if isinstance(part.value, Codes)]
    name = importer.name(node)
    image = (*parts[0].image[:2], sum(source.shape[axis] for source in sources))
    shape = tuple(image[2] if i == axis else size for i, size in enumerate(first.shape))
    axes = tuple("C" if i == axis else group for i, group in enumerate(parts[0].axes))
    result = Activation(parts[0].value, shape, axes, image)
    if len(codes) == len(parts):
        own = codes[0].quantization
        if any((c.quantization.scale, c.quantization.zero_point) != (own.scale, own.zero_point)
               for c in codes):  # fmt: skip
            raise Unsupported("concatenation of codes on different scales")
        tensors = [real(importer, part.like(value=code.real())) for part, code in
                   zip(parts, codes, strict=True)]  # fmt: skip
        return result.like(value=Codes(importer.builder.concat(tensors, name).finish, own))
    return result.like(value=importer.builder.concat(
        [shared(importer, part) for part in parts], name
    ))  # fmt: skip


def _cut(
    importer: Importer, name: str, source: Activation, cuts: dict[int, tuple[int, int, int]]
) -> Activation:
    """(start, step, count) of some axes."""
    shape, axes = list(source.shape), list(source.axes)
    start, step, size = [0, 0, 0], [1, 1, 1], list(source.image)
    for axis, (first, every, count) in cuts.items():
        if count < 1:
            raise Unsupported(f"a part of {count} along axis {axis}")
        whole = (first, count) == (0, shape[axis]) and every == 1
        shape[axis] = count
        if whole or not axes[axis]:
            continue
        if axes[axis] not in ("H", "W", "C"):
            raise Unsupported("a part of the batch, or of axes made one")
        index = "HWC".index(axes[axis])
        start[index], step[index], size[index] = first, every, count
        axes[axis] = axes[axis] if count > 1 else ""
    image = (size[0], size[1], size[2])
    if image == source.image and step == [1, 1, 1]:
        return source.like(shape=tuple(shape), axes=tuple(axes))
    if min(step) < 1:
        places = [
            [first + i * every for i in range(count)]
            for first, every, count in zip(start, step, image, strict=True)
        ]
        result = picked(importer, name, source, places)
        return result.like(shape=tuple(shape), axes=tuple(axes))
    return moved(
        importer, source,
        lambda x: importer.builder.slice(
            x, name, (start[0], start[1], start[2]), (step[0], step[1], step[2]), image
        ),
        shape=tuple(shape), axes=tuple(axes), image=image,
    )  # fmt: skip


def slices(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Activation:
    source = activation(operands[0])
    starts = integers(node, operands, 1, "starts")
    ends = integers(node, operands, 2, "ends")
    if starts is None or ends is None or len(starts) != len(ends):
        raise Unsupported("starts and ends of different length")
    axes = integers(node, operands, 3, "axes") or list(range(len(starts)))
    steps = integers(node, operands, 4, "steps") or [1] * len(starts)
    if not len(starts) == len(axes) == len(steps) or 0 in steps:
        raise Unsupported(f"axes {axes} and steps {steps} for {len(starts)} starts")
    cuts = {}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        axis = axis_index(axis, len(source.shape))
        size = source.shape[axis]
        # A free batch is not 1: what is cut from it is not known.
        end = None if step < 0 and end < -size else end
        index = range(size)[slice(start, end, step)]
        cuts[axis] = (index.start, step, len(index))
    return _cut(importer, importer.name(node), source, cuts)


def split(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Results:
    source = activation(operands[0])
    axis = axis_index(node.attributes.get("axis", 0), len(source.shape))
    size, count = source.shape[axis], node.attributes.get("num_outputs") or len(node.outputs)
    parts = integers(node, operands, 1, "split")
    if parts is None:
        each = -(-size // count)
        parts = [min(each, size - i * each) for i in range(count)]
    if sum(parts) != size or min(parts) < 1 or len(parts) > SMALL:
        raise Unsupported(f"parts of {parts} of {size}")
    starts = itertools.accumulate([0, *parts[:-1]])
    name = importer.name(node)
    return Results(
        _cut(importer, f"{name}_{i}", source, {axis: (start, 1, part)})
        for i, (start, part) in enumerate(zip(starts, parts, strict=True))
    )


def gather(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Activation:
    source, chosen = activation(operands[0]), array(operands[1], "indices")
    axis = axis_index(node.attributes.get("axis", 0), len(source.shape))
    size = source.shape[axis]
    if chosen.dtype.kind not in "iu" or chosen.ndim > 1 or not 0 < chosen.size <= 1 << 16:
        raise Unsupported(f"indices of shape {chosen.shape}")
    index = [int(i) for i in chosen.reshape(-1)]
    if not all(-size <= i < size for i in index):
        raise Unsupported(f"indices outside an axis of {size}")
    index = [i % size for i in index]
    rate = {b - a for a, b in itertools.pairwise(index)} or {1}
    name = importer.name(node)
    if len(rate) == 1 and min(rate) > 0:
        result = _cut(importer, name, source, {axis: (index[0], min(rate), len(index))})
    elif source.axes[axis] == "C":
        image = (*source.image[:2], len(index))
        shape = tuple(len(index) if i == axis else s for i, s in enumerate(source.shape))
        result = moved(
            importer, source, lambda x: importer.builder.gather(x, name, index), shape=shape,
            image=image,
        )  # fmt: skip
    elif source.axes[axis] in ("H", "W"):
        pixels = [list(range(s)) for s in source.image]
        pixels["HWC".index(source.axes[axis])] = index
        shape = tuple(len(index) if i == axis else s for i, s in enumerate(source.shape))
        result = picked(importer, name, source, pixels).like(shape=shape)
    else:
        raise Unsupported("indices of the batch, or of axes made one")
    if chosen.ndim:
        return result
    return result.like(
        shape=tuple(s for i, s in enumerate(result.shape) if i != axis),
        axes=tuple(g for i, g in enumerate(result.axes) if i != axis),
    )


def pad(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Activation:
    source = activation(operands[0])
    dimensions = len(source.shape)
    amounts = integers(node, operands, 1, "pads") or node.attributes.get("paddings")
    given = operand(operands, 2)
    fill = node.attributes.get("value", 0.0) if given is None else (
        float(constant(given, "value").reshape(-1)[0]))  # fmt: skip
    mode = node.attributes.get("mode", "constant")
    if mode not in ("constant", "edge", "reflect", "wrap"):
        raise Unsupported(f"mode {mode!r}")
    chosen = integers(node, operands, 3, "axes")
    axes = (
        list(range(dimensions)) if chosen is None else [axis_index(a, dimensions) for a in chosen]
    )
    if amounts is None or len(amounts) != 2 * len(axes):
        raise Unsupported(f"{len(amounts or ())} pads for {len(axes)} axes")
    if max(map(abs, amounts), default=0) >= 1 << 16:
        raise Unsupported(f"pads {amounts}")
    cuts, around = {}, {}
    for i, axis in enumerate(axes):
        before, after = amounts[i], amounts[i + len(axes)]
        if min(before, after) < 0:
            kept = source.shape[axis] + min(before, 0) + min(after, 0)
            cuts[axis] = (max(-before, 0), 1, kept)
        if max(before, after) > 0:
            around[axis] = (max(before, 0), max(after, 0))
    name = importer.name(node)
    result = _cut(importer, f"{name}_crop", source, cuts) if cuts else source
    if around and mode != "constant":
        return _mirrored(importer, name, result, around, mode, 0.0)
    for axis, ends in around.items():
        letter = result.axes[axis] or _letter(result, axis)
        if letter == "C":
            result = _more_channels(importer, name, result, axis, ends, fill)
        elif letter not in ("H", "W"):
            raise Unsupported("padding of anything but height, width and channels")
        elif fill != 0:
            result = _mirrored(importer, name, result, {axis: ends}, mode, fill)
        else:
            result = _zeros_around(importer, name, result, axis, letter, ends)
    return result


def _letter(source: Activation, axis: int) -> str:
    """For an axis of size 1, the letter that would stand there."""
    order = {3: "NCW", 4: "NCHW", 2: "NC"}.get(len(source.shape), "")
    letter = order[axis] if axis < len(order) else ""
    return "" if letter in "".join(source.axes) else letter


def _more_channels(
    importer: Importer, name: str, source: Activation, axis: int, ends: tuple[int, int],
    fill: float,
) -> Activation:  # fmt: skip
    before, after = ends
    channels = [*[None] * before, *range(source.shape[axis]), *[None] * after]
    shape = tuple(len(channels) if i == axis else s for i, s in enumerate(source.shape))
    axes = tuple("C" if i == axis else group for i, group in enumerate(source.axes))
    return moved(
        importer, source, lambda x: importer.builder.gather(x, name, channels, fill=fill),
        shape=shape, axes=axes, image=(*source.image[:2], len(channels)),
    )  # fmt: skip


def _mirrored(
    importer: Importer, name: str, source: Activation, around: dict[int, tuple[int, int]],
    mode: str, fill: float,
) -> Activation:  # fmt: skip
    """Around a small image: its own pixels again, or a value."""
    pixels = [list(range(size)) for size in source.image]
    shape, axes = list(source.shape), list(source.axes)
    for axis, ends in around.items():
        letter = axes[axis] or _letter(source, axis)
        if letter not in ("H", "W", "C") or mode == "reflect" and max(ends) >= shape[axis]:
            raise Unsupported(f"padding of axis {axis} by {ends}")
        place = "HWC".index(letter)
        pixels[place] = _beyond(pixels[place], ends, mode)
        shape[axis] += sum(ends)
        axes[axis] = letter
    result = picked(importer, name, source, pixels, fill)
    return result.like(shape=tuple(shape), axes=tuple(axes))


def _beyond(pixels: list[int], ends: tuple[int, int], mode: str) -> list[int]:
    """Which pixel each is, -1 for none of them."""
    if mode == "constant":
        return [-1] * ends[0] + pixels + [-1] * ends[1]
    count = len(pixels)
    places = np.arange(-ends[0], count + ends[1])
    if mode == "edge":
        places = np.clip(places, 0, count - 1)
    elif mode == "wrap":
        places = places % count
    else:
        places = count - 1 - np.abs(count - 1 - np.abs(places))
    return [pixels[i] for i in places]


def _zeros_around(
    importer: Importer, name: str, source: Activation, axis: int, letter: str,
    ends: tuple[int, int],
) -> Activation:  # fmt: skip
    """Zeros that the next convolution pads with, or, before a quantize operator, that are there."""
    before, after = ends
    rows = letter == "H"
    added: Padding = (before, 0, after, 0) if rows else (0, before, 0, after)
    size = source.shape[axis] + before + after
    shape = tuple(size if i == axis else s for i, s in enumerate(source.shape))
    axes = tuple(letter if i == axis else group for i, group in enumerate(source.axes))
    image = (size, *source.image[1:]) if rows else (source.image[0], size, source.image[2])
    if isinstance(source.value, Real):
        top, left, bottom, right = (a + b for a, b in zip(source.value.padding, added, strict=True))
        value = Real(source.value.tensor, (top, left, bottom, right))
        return Activation(value, shape, axes, image)
    return moved(
        importer, source, lambda x: importer.builder.pad(x, name, added), shape=shape, axes=axes,
        image=image,
    )  # fmt: skip


PARTS: dict[str, Handler] = {
    "Concat": concatenation,
    "Slice": slices,
    "Split": split,
    "Gather": gather,
    "Pad": pad,
}
