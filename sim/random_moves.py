# SPDX-License-Identifier: Apache-2.0
"""Random graphs of nodes that move codes: concatenations, slices, and dilated inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from math import prod

import numpy as np

from bitloop.graph.ir import (
    Concat,
    Conv,
    MaxPool,
    Requantization,
    Reshape,
    Slice,
    Table,
    TensorSpec,
)
from bitloop.graph.validate import dilated_size, output_size

from .random_nodes import Builder


def alike(b: Builder, tensors: Sequence[TensorSpec]) -> list[TensorSpec]:
    """The tensors, made to have the scale and zero-point of the first, and with them all whose
    codes they share."""
    names = {spec.name for spec in tensors}
    before = 0
    while len(names) > before:
        before = len(names)
        for node in b.nodes:
            linked = {*node.inputs, node.output}
            if isinstance(node, Concat | Slice | MaxPool | Reshape) and not names.isdisjoint(
                linked
            ):
                names |= linked
    for name in names:
        b.tensors[name] = dataclasses.replace(
            b.tensors[name], scale=tensors[0].scale, zero_point=tensors[0].zero_point
        )
    return [b.tensors[spec.name] for spec in tensors]


def concat(b: Builder, tensors: Sequence[TensorSpec]) -> TensorSpec:
    parts = alike(b, tensors)
    channels = sum(spec.shape[2] for spec in parts)
    target = b.tensor((*parts[0].shape[:2], channels), parts[0].scale, parts[0].zero_point)
    b.append(Concat(b.node_name("concat"), tuple(spec.name for spec in parts), target.name))
    return target


def cut(b: Builder, source: TensorSpec, strided: bool = True) -> TensorSpec:
    """A slice; half of them start at whole words and take channels in a row."""
    start, step, shape = [], [], []
    aligned = b.chance(0.5)
    for axis, size in enumerate(source.shape):
        first = b.integer(0, size - 1) if b.chance(0.7) else 0
        every = b.integer(1, 3) if strided and b.chance(0.4) else 1
        if axis == 2 and aligned:
            first, every = first // b.lanes * b.lanes, 1
        most = (size - 1 - first) // every + 1
        start.append(first)
        step.append(every)
        shape.append(most if b.chance(0.5) else b.integer(1, most))
    target = b.tensor((shape[0], shape[1], shape[2]), source.scale, source.zero_point)
    b.append(
        Slice(
            b.node_name("slice"), (source.name,), target.name, start=(start[0], start[1], start[2]),
            step=(step[0], step[1], step[2]),
        )
    )  # fmt: skip
    return target


def count(b: Builder) -> int:
    """Channels of a part: half the time whole words."""
    return b.lanes * b.integer(1, 2) if b.chance(0.5) else b.channels(2)


def part(b: Builder, source: TensorSpec, bits: int) -> TensorSpec:
    """A tensor with the rows and columns of `source`, to be concatenated with others."""
    choice = b.integer(0, 6)
    if choice == 0:
        return source
    if choice == 1:
        return b.input(*source.shape[:2], count(b))
    if choice == 2:
        channels = source.shape[2]
        return b.conv(source, channels, bits, (1, 1), groups=channels, operator="depthwise")
    branch = b.conv(source, count(b), bits, (3, 3), padding=(1, 1, 1, 1))
    if choice == 3:
        return b.add(branch, b.input(*branch.shape))
    return branch


def reader(b: Builder, source: TensorSpec, bits: int) -> TensorSpec:
    """What may follow a concatenation or slice."""
    choice = b.integer(0, 4)
    if choice == 0:
        return b.depthwise(source, bits)
    if choice == 1:
        return b.maxpool(source)
    if choice == 2:
        return b.add(source, b.input(*source.shape))
    return b.random_conv(source, bits)


def concat_graph(b: Builder, bits: int) -> list[TensorSpec]:
    """Concatenations, the parts of one often parts of the next."""
    source = b.input(b.size(6), b.size(6), count(b))
    parts = [part(b, source, bits) for _ in range(b.integer(2, 3))]
    if not b.nodes:
        parts.append(b.conv(source, count(b), bits, (1, 1)))
    joined = concat(b, parts)
    outputs = [b.tensors[spec.name] for spec in parts if b.chance(0.1)]
    if b.chance(0.5):
        further = part(b, joined, bits)
        earlier = parts if b.chance(0.5) else [joined]
        again = concat(b, [*earlier, further])
        if b.chance(0.5):
            outputs.append(joined)
        joined = b.tensors[again.name]
    if b.chance(0.3):
        outputs.append(joined)
    if b.chance(0.7) or not outputs:
        outputs.append(reader(b, joined, bits))
    return used(b, outputs)


def slice_graph(b: Builder, bits: int) -> list[TensorSpec]:
    """Slices of an input or of a layer's output, and slices joined again in another order."""
    source = b.input(b.size(8), b.size(8), b.channels(3))
    if b.chance(0.5):
        source = b.conv(source, b.channels(3), bits, (1, 1))
    outputs = []
    if b.chance(0.3) and min(source.shape[:2]) > 1:  # space to depth
        height, width = (n // 2 for n in source.shape[:2])
        corners = []
        for y, x in ((0, 0), (1, 0), (0, 1), (1, 1)):
            target = b.tensor((height, width, source.shape[2]), source.scale, source.zero_point)
            corners.append(target)
            b.append(
                Slice(b.node_name("slice"), (source.name,), target.name, start=(y, x, 0),
                      step=(2, 2, 1))
            )  # fmt: skip
        outputs.append(reader(b, concat(b, corners), bits))
    for _ in range(b.integer(1, 2)):
        piece = cut(b, source)
        if b.chance(0.3):
            piece = cut(b, piece)
        if b.chance(0.3):
            piece = concat(b, [piece, piece])
        outputs.append(piece if b.chance(0.3) else reader(b, piece, bits))
    return used(b, outputs)


def spread_graph(b: Builder, bits: int) -> list[TensorSpec]:
    target = spread_conv(b, b.input(b.size(5), b.size(5), b.channels(2)), bits)
    if b.chance(0.3):
        target = b.add(target, b.input(*target.shape))
    return used(b, [target])


def spread_conv(b: Builder, source: TensorSpec, bits: int) -> TensorSpec:
    """A convolution of a dilated input: transposed convolutions, and every other combination of
    kernel, stride, padding and dilations."""
    channels = source.shape[2]
    plain = b.chance(0.6)
    while True:
        spread = (b.integer(1, 3), b.integer(1, 3))
        kernel = (b.integer(1, 5), b.integer(1, 5))
        stride = (1, 1) if plain else (b.integer(1, 3), b.integer(1, 3))
        dilation = (1, 1) if plain else (b.integer(1, 3), b.integer(1, 3))
        extent = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
        top, left, bottom, right = (b.integer(0, extent[i % 2] - 1) for i in range(4))
        sizes = [
            output_size(dilated_size(n, d), before, after, k, s, e)
            for n, d, before, after, k, s, e in zip(
                source.shape, spread, (top, left), (bottom, right), kernel, stride, dilation,
                strict=False,
            )
        ]  # fmt: skip
        if min(sizes) > 0:
            break
    groups = int(b.rng.choice([1, 1, channels]))
    outputs = channels if groups > 1 else b.channels(2)
    return b.conv(
        source, outputs, bits, kernel, stride, (top, left, bottom, right), dilation, groups,
        "depthwise" if groups > 1 else "conv", spread,
    )  # fmt: skip


def upsample_graph(b: Builder, bits: int) -> list[TensorSpec]:
    """Nearest-neighbour upsampling, mostly joined with another tensor of its size."""
    source = b.input(b.size(4), b.size(4), count(b))
    if b.chance(0.5):
        source = b.conv(source, count(b), bits, (1, 1))
    target = upsample(b, source)
    if b.chance(0.7):
        skip = b.conv(b.input(*target.shape[:2], count(b)), count(b), bits, (1, 1))
        target = reader(b, concat(b, [target, skip]), bits)
    return used(b, [target])


def upsample(b: Builder, source: TensorSpec) -> TensorSpec:
    factor = (b.integer(1, 3), b.integer(2, 3))
    channels = source.shape[2]
    shape = (source.shape[0] * factor[0], source.shape[1] * factor[1], channels)
    target = b.tensor(shape, source.scale, source.zero_point)
    shift = b.multiplier_bits - 1
    same = Requantization(
        np.full(channels, 1 << shift, np.int64),
        np.zeros(channels, np.int64),
        np.full(channels, shift, np.int64),
    )
    # The zero-point of what was put between the pixels is taken off again.
    zeros = (prod(factor) - 1) * source.zero_point
    same = dataclasses.replace(same, constant=-same.multiplier * zeros)
    before = (factor[0] - 1, factor[1] - 1)
    b.append(
        Conv(
            b.node_name("depthwise"), (source.name,), target.name, bits=2, requant=same,
            weights=np.ones((channels, *factor, 1), np.int8), padding=(*before, *before),
            input_dilation=factor, groups=channels, operator="depthwise",
        )
    )  # fmt: skip
    return target


def table(b: Builder, source: TensorSpec) -> TensorSpec:
    """Any function of one code, now and then of few values."""
    target = b.tensor(source.shape, source.scale * float(b.rng.uniform(0.5, 2)), b.integer(0, 255))
    codes = b.rng.permutation(256).astype(np.uint8)
    codes = codes if b.chance(0.8) else codes // 64 * 64
    b.append(Table(b.node_name("table"), (source.name,), target.name, table=codes))
    return target


def reshape(b: Builder, source: TensorSpec) -> TensorSpec:
    """The same codes as other rows, columns and channels, half the time as whole words."""
    rest = prod(source.shape)
    whole = b.chance(0.5) and rest % b.lanes == 0
    sizes = [n for n in range(1, rest + 1) if rest % n == 0 and not (whole and n % b.lanes)]
    channels = int(b.rng.choice(sizes))
    rows = [n for n in range(1, rest // channels + 1) if rest // channels % n == 0]
    height = int(b.rng.choice(rows))
    shape = (height, rest // channels // height, channels)
    target = b.tensor(shape, source.scale, source.zero_point)
    b.append(Reshape(b.node_name("reshape"), (source.name,), target.name))
    return target


def table_graph(b: Builder, bits: int) -> list[TensorSpec]:
    """Tables and reshapes of inputs, of layers' outputs, of parts of tensors, one after another,
    for a reader, a concatenation or as outputs; or among nodes of every kind."""
    if b.chance(0.4):
        return mixed_graph(b, bits, tables=True)
    source = b.input(b.size(6), b.size(6), count(b))
    if b.chance(0.7):
        source = part(b, source, bits)
    if b.chance(0.3):
        source = cut(b, source)
    tensors = [source]
    for _ in range(b.integer(1, 3)):
        tensors.append(table(b, tensors[-1]) if b.chance(0.6) else reshape(b, tensors[-1]))
    target = tensors[-1]
    if b.chance(0.3):
        target = concat(b, [target, part(b, target, bits)])
    if b.chance(0.6):
        target = reader(b, b.tensors[target.name], bits)
    outputs = [spec for spec in tensors[1:] if b.chance(0.2)]
    return used(b, [target, *outputs])


def mixed_graph(b: Builder, bits: int, tables: bool = False) -> list[TensorSpec]:
    """A few random nodes of every kind (tables if asked to), each reading what some earlier one has
    made."""
    tensors = [b.input(b.integer(2, 8), b.integer(2, 8), count(b))]
    for _ in range(b.integer(3, 7)):
        source = b.tensors[tensors[b.integer(max(0, len(tensors) - 3), len(tensors) - 1)].name]
        alike_size = [b.tensors[t.name] for t in tensors if t.shape[:2] == source.shape[:2]]
        choice = b.integer(0, 7)
        if choice == 0 and prod(source.shape[:2]) <= 36:
            made = upsample(b, source) if b.chance(0.5) else spread_conv(b, source, bits)
        elif choice <= 2:
            others = [alike_size[b.integer(0, len(alike_size) - 1)] for _ in range(2)]
            made = concat(b, [source, *others[: b.integer(1, 2)]])
        elif choice == 3:
            made = cut(b, source)
        elif choice == 4:
            made = b.avgpool(source)
        elif choice == 5:
            made = table(b, source) if tables and b.chance(0.8) else reshape(b, source)
        else:
            made = reader(b, source, bits)
        if made.shape[2] > 6 * b.lanes:
            made = b.conv(made, b.channels(2), bits, (1, 1))
        tensors.append(made)
        if b.chance(0.3):
            tensors.append(part(b, b.tensors[made.name], bits))
    return used(b, [tensors[-1]])


def used(b: Builder, outputs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """The outputs, and every tensor that nothing reads; inputs get a reader."""
    read = {name for node in b.nodes for name in node.inputs}
    for name in b.inputs:
        if name not in read:
            b.conv(b.tensors[name], count(b), 8, (1, 1))
    read.update(b.inputs)
    names = [spec.name for spec in outputs if spec.name not in b.inputs]
    names += [name for name in b.tensors if name not in read]
    return [b.tensors[name] for name in dict.fromkeys(names)]
