# SPDX-License-Identifier: Apache-2.0
"""Allocate: addresses in the activation RAM for tensors that stay in it, by lifetime."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .layer import Network
from .layout import Layout
from .tiles import Gaps

SHUFFLES = 64
"""Random placement orders tried once the deterministic ones have failed."""


@dataclass
class Buffer:
    """Tensors that share words: a chain of residuals, each overwritten by the sum."""

    tensors: list[str]
    words: int
    first: int
    last: int


def buffers(network: Network, chosen: Mapping[str, Layout]) -> list[Buffer]:
    """One a tensor, except that a sum takes the place of a residual nobody reads later.

    That is safe because the core reads a pixel's residual before it writes the same word; the
    convolution's own input must be another tensor, for it is read again for every group.
    """
    holder: dict[str, Buffer] = {}
    for name, layout in chosen.items():
        holder[name] = Buffer([name], layout.words, *network.lifetime(name))
    for index, layer in enumerate(network.layers):
        if layer.residual is None:
            continue
        residual = layer.residual.tensor
        if residual not in chosen or layer.target not in chosen:
            continue  # parts of other tensors
        old, new = holder[residual], holder[layer.target]
        elementwise = layer.op == "add"
        alike = chosen[residual] == chosen[layer.target]
        apart = network.roots[layer.source] != residual
        if old.last == index and alike and (apart or elementwise and layer.source == residual):
            old.tensors += new.tensors
            old.last = new.last
            holder[layer.target] = old
    unique = {id(buffer): buffer for buffer in holder.values()}
    return list(unique.values())


def allocations(chosen: list[Buffer], layers: int, capacity: int) -> Iterator[dict[str, int]]:
    """Base addresses by tensor, one mapping for each order tried that fits."""
    _, alive = fullest(chosen, layers)
    if sum(b.words for b in alive) > capacity:
        return
    for order in _orders(chosen):
        bases = _fit(order, capacity)
        if bases is not None:
            yield bases


def gaps(
    chosen: list[Buffer], bases: Mapping[str, int], layer: int, capacity: int, after: int = 0
) -> Gaps:
    """What is free during a layer and `after` that follow it."""
    result = []
    position = 0
    for start, stop in [*_alive(chosen, bases, layer, layer + after), (capacity, capacity)]:
        if start > position:
            result.append((position, start - position))
        position = max(position, stop)
    return tuple(result)


def fullest(chosen: list[Buffer], layers: int) -> tuple[int, list[Buffer]]:
    """The layer during which most words are needed, and what is alive then."""
    alive = [[b for b in chosen if b.first <= i <= b.last] for i in range(layers)]
    index = max(range(layers), key=lambda i: sum(b.words for b in alive[i]))
    return index, alive[index]


def _alive(
    chosen: list[Buffer], bases: Mapping[str, int], first: int, last: int
) -> list[tuple[int, int]]:
    """(first word, end) of those placed and alive between two layers, in order."""
    return sorted(
        (bases[b.tensors[0]], bases[b.tensors[0]] + b.words)
        for b in chosen
        if b.first <= last and first <= b.last and b.tensors[0] in bases
    )


def _orders(chosen: list[Buffer]) -> Iterator[list[Buffer]]:
    yield sorted(chosen, key=lambda b: (-b.words, b.first))
    yield sorted(chosen, key=lambda b: (b.first - b.last, -b.words))
    yield sorted(chosen, key=lambda b: b.first)
    shuffler = random.Random(0)
    for _ in range(SHUFFLES):
        yield shuffler.sample(chosen, len(chosen))


def _fit(order: list[Buffer], capacity: int) -> dict[str, int] | None:
    """Each buffer in the smallest gap between those that live at the same time."""
    placed: list[Buffer] = []
    bases: dict[str, int] = {}
    for buffer in order:
        best: tuple[int, int] | None = None
        position = 0
        alive = _alive(placed, bases, buffer.first, buffer.last)
        for start, stop in [*alive, (capacity, capacity)]:
            gap = start - position
            if gap >= buffer.words and (best is None or gap < best[0]):
                best = (gap, position)
            position = max(position, stop)
        if best is None:
            return None
        placed.append(buffer)
        bases.update((name, best[1]) for name in buffer.tensors)
    return bases
