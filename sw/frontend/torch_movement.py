# SPDX-License-Identifier: Apache-2.0
"""PyTorch's operators that move values: applied to arrays of places by PyTorch itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from . import program as ops
from .lowering import Pending, Real, Unsupported
from .movement import Places, straight
from .program import value_shape
from .torch_values import Importer, Input, Parts

_IMAGE = 1 << 40
"""From one image's places to the next's."""


def _applied(importer: Importer, node: Node, places: Places) -> list[Places]:
    """The node's operator on places; a list for operators with several results."""
    one = torch.from_numpy(np.ascontiguousarray(places.indices))
    images = [torch.where(one >= 0, one + i * _IMAGE, one) for i in range(importer.batch)]
    stacked = torch.stack(images)

    def known(n: Node) -> Any:
        value = importer.values[n]
        if isinstance(value, int | float):
            return value
        if n is not node.all_input_nodes[0]:
            raise Unsupported("a movement that depends on values")
        return stacked

    args = torch.fx.node.map_arg(node.args, known)
    kwargs = torch.fx.node.map_arg(node.kwargs, known)
    try:
        result = node.target(*args, **kwargs)  # type: ignore[operator]
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise Unsupported(f"its arguments do not suit its input: {reason}") from None
    results = [result] if isinstance(result, torch.Tensor) else list(result)
    return [_one_image(importer, places, tensor) for tensor in results]


def _one_image(importer: Importer, places: Places, result: torch.Tensor) -> Places:
    if result.ndim < 2 or result.shape[0] != importer.batch or 0 in result.shape:
        raise Unsupported("it changes the batch dimension")
    first = result[0]
    for i in range(1, importer.batch):
        if not torch.equal(result[i], torch.where(first >= 0, first + i * _IMAGE, first)):
            raise Unsupported("it mixes the images of a batch")
    if int(first.max()) >= _IMAGE:
        raise Unsupported("it mixes the images of a batch")
    return Places(np.ascontiguousarray(first.numpy()), places.shape, places.fill)


def movement(importer: Importer, node: Node, values: dict[str, Any]) -> Real | Pending | Input:
    source = node.all_input_nodes[0]
    value = importer.values[source]
    if not isinstance(value, Input):
        value = importer.activation(source)
    (importer.moved[node],) = _applied(importer, node, importer.places(source))
    return value


def split(importer: Importer, node: Node, values: dict[str, Any]) -> Parts:
    source = node.all_input_nodes[0]
    value = importer.activation(source)
    return Parts(value, tuple(_applied(importer, node, importer.places(source))))


def getitem(importer: Importer, node: Node, values: dict[str, Any]) -> Real | Pending | None:
    source, index = node.args
    assert isinstance(source, Node)
    value = importer.values[source]
    if isinstance(value, Parts):
        if not isinstance(index, int) or not 0 <= index < len(value.places):
            raise Unsupported(f"part {index} of {len(value.places)}")
        importer.moved[node] = value.places[index]
        return value.value
    if index == 0 and isinstance(value, Real | Pending):
        return value
    if node.users:
        raise Unsupported("positions of maxima")
    return None


def pad(importer: Importer, node: Node, values: dict[str, Any]) -> Real | Pending | Input:
    source = node.all_input_nodes[0]
    value = importer.values[source]
    if not isinstance(value, Input):
        value = importer.activation(source)
    if values.get("mode", "constant") != "constant":
        raise Unsupported("only padding with a constant")
    fill = float(values.get("value") or 0.0)
    places = importer.places(source)
    if places.filled and places.fill != fill:
        raise Unsupported("padding with another value than the padding before it")
    amounts = [int(a) for a in values["pad"]]
    if len(amounts) % 2 or len(amounts) > 2 * places.indices.ndim:
        raise Unsupported("padding of the batch")
    padded = places.indices
    widths = [(0, 0)] * padded.ndim
    for i in range(len(amounts) // 2):
        before, after = amounts[2 * i], amounts[2 * i + 1]
        axis = padded.ndim - 1 - i
        size = padded.shape[axis]
        if min(before, after) < 0:
            first, last = max(0, -before), size - max(0, -after)
            if first >= last:
                raise Unsupported("padding that leaves nothing")
            padded = np.take(padded, np.arange(first, last), axis)
        widths[axis] = (max(0, before), max(0, after))
    if sum(sum(width) for width in widths) > 1 << 16:
        raise Unsupported(f"padding by {amounts}")
    padded = np.pad(padded, widths, constant_values=-1)
    importer.moved[node] = Places(padded, places.shape, fill)
    return value


def upsample(importer: Importer, node: Node, values: dict[str, Any]) -> Real | Pending:
    source = values["input"]
    value = importer.activation(source)
    places = importer.places(source)
    indices = places.indices
    target = value_shape(node)
    for axis in range(1, indices.ndim):
        if target[axis] % indices.shape[axis]:
            raise Unsupported(
                f"nearest upsampling of {indices.shape[1:]} to {target[1:]}: only whole factors"
            )
        indices = np.repeat(indices, target[axis] // indices.shape[axis], axis)
    importer.moved[node] = Places(indices, places.shape, places.fill)
    return value


def concatenation(importer: Importer, node: Node, values: dict[str, Any]) -> Pending:
    parts: Sequence[Node] = values["tensors"]
    ranks = {len(value_shape(part)) for part in parts}
    if len(ranks) != 1 or not all(isinstance(importer.values[p], Real | Pending) for p in parts):
        for part in parts:
            importer.activation(part, "part")
        raise Unsupported("parts of different ranks")
    (rank,) = ranks
    axis = int(values["dim"]) % (rank + 1) - 1
    last = axis == rank - 1 and rank > 1
    if axis != 0 and not last:
        raise Unsupported("only along the channels")
    name = importer.node_name(node)
    placed = [importer.flowing(part, "part", last) for part in parts]
    shape = value_shape(node)
    if last:
        shape = (shape[-1], *shape[:-1])
        height, width = [1] * (2 - len(shape[1:])) + list(shape[1:])
        places = straight((height, width, shape[0]), channels_first=False)
        importer.moved[node] = places.reshaped(value_shape(node))
    return importer.builder.concat(placed, name)


def input_places(node: Node) -> Places | None:
    """Places of a graph input whose channels come last, as the operators that use it tell; None
    where they come first."""
    shape = value_shape(node)
    if len(shape) not in (2, 3):
        return None
    pending, seen = list(node.users), set()
    while pending:
        user = pending.pop(0)
        if user in seen:
            continue
        seen.add(user)
        if _channels_to_front(user, len(shape) + 1):
            height, width, channels = (1, *shape)[-3:]
            return straight((height, width, channels), channels_first=False).reshaped(shape)
        keeps = ops.QUANTIZES | ops.DEQUANTIZES | ops.NO_OPERATION | ops.CLAMPS | ops.TABLES
        if user.target in keeps:
            pending.extend(user.users)
    return None


def _channels_to_front(node: Node, rank: int) -> bool:
    if node.target == ops.LINEAR:
        return True
    values = ops.arguments(node) if node.target in ops.MOVEMENTS else {}
    if node.target == ops.aten.permute.default:
        order = [int(d) % rank for d in values["dims"]]
        return order == [0, rank - 1, *range(1, rank - 1)]
    if node.target in (ops.aten.transpose.int, ops.aten.swapaxes.default) and rank == 3:
        axes = sorted(int(d) % rank for d in list(values.values())[-2:])
        return axes == [1, 2]
    if node.target == ops.aten.movedim.int:
        return (int(values["source"]) % rank, int(values["destination"]) % rank) == (rank - 1, 1)
    return False
