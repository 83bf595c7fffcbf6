# SPDX-License-Identifier: Apache-2.0
"""Banks: tensors moved by a few words and rows by as many apart, so that residuals are read in
cycles in which the steps of their pixels leave their bank free.

A pixel's residual is read beside one of its steps, the last excepted. Where each step reads the
residual's bank, as steps of narrow weights with their two or four words may, the pixel takes one
cycle more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from bitloop.hw.config import ACTIVATION_BANKS

from .allocate import Buffer
from .layer import Layer, Network
from .layout import Layout
from .planner import Planner

SHIFTS = tuple(range(1, ACTIVATION_BANKS)) + tuple(range(-1, -ACTIVATION_BANKS, -1))


def agree(network: Network, planner: Planner, chosen: Mapping[str, Layout]) -> dict[str, Layout]:
    """The layouts, with those of residuals changed where their readers lose less than the residuals
    gain: rows that are as far apart, modulo the banks, as the input's keep a residual in a bank
    that its pixel's steps leave free."""
    result = dict(chosen)
    layers = _narrow(network, result)
    residuals = dict.fromkeys(y.residual.tensor for y in layers if y.residual)
    for name in residuals:
        if name in network.views:
            continue
        users = [y for y in layers if name in {network.roots[t] for t in y.reads}]
        plain = [y for y in planner.candidates(name) if not y.fold]
        cycles = {
            layout: planner.read_cycles(name, layout)
            + sum(_least(network, planner, y, {**result, name: layout}) for y in users)
            for layout in (result[name], *plain)
        }
        best = min(cycles, key=lambda y: (cycles[y], y.words))
        if cycles[best] < cycles[result[name]]:
            result[name] = best
    return result


def _least(network: Network, planner: Planner, layer: Layer, chosen: Mapping[str, Layout]) -> float:
    """Cycles that residuals take for themselves where they and the input begin in the best banks,
    but for the image's border."""
    assert layer.residual is not None
    source, residual = (
        planner.lies(network.roots[name], chosen[network.roots[name]])[name][1]
        for name in (layer.source, layer.residual.tensor)
    )
    banks = range(ACTIVATION_BANKS)
    share = min(_stalled(planner, layer, (0, source), (base, residual)) for base in banks)
    height, width, _ = network.tensors[layer.target].shape
    return share * height * width * planner.groups(layer)


def spread(
    network: Network,
    planner: Planner,
    chosen: Mapping[str, Layout],
    held: Sequence[Buffer],
    bases: Mapping[str, int],
    capacity: int,
) -> dict[str, int]:
    """The bases, with inputs and residuals of layers shifted where that saves cycles and the words
    beside them are free."""
    result = dict(bases)
    layers = _narrow(network, chosen)
    by_tensor = {name: buffer for buffer in held for name in buffer.tensors}
    for layer in layers:
        lost = _lost(network, planner, chosen, layers, result)
        for root in sorted(_roots(network, layer)) if lost else ():
            buffer = by_tensor[root]
            for shifted in _shifted(buffer, held, result, capacity):
                found = _lost(network, planner, chosen, layers, shifted)
                if found < lost:
                    lost, result = found, shifted
    return result


def roomy(network: Network, chosen: Mapping[str, Layout], held: Sequence[Buffer]) -> list[Buffer]:
    """The buffers with room to shift them into any bank; none where nothing asks for it."""
    if not _narrow(network, chosen):
        return []
    return [replace(buffer, words=buffer.words + ACTIVATION_BANKS - 1) for buffer in held]


def _narrow(network: Network, chosen: Mapping[str, Layout]) -> list[Layer]:
    """Layers of narrow weights whose input and residual are on the chip."""
    return [
        y
        for y in network.layers
        if y.residual and y.bits < 8 and _roots(network, y) <= chosen.keys()
    ]


def _roots(network: Network, layer: Layer) -> set[str]:
    """Of input and residual."""
    return {network.roots[name] for name in layer.reads}


def _shifted(
    buffer: Buffer, held: Sequence[Buffer], bases: Mapping[str, int], capacity: int
) -> Iterator[dict[str, int]]:
    """The bases with those of a buffer shifted, as far as it meets no other."""
    base = bases[buffer.tensors[0]]
    others = [
        (bases[y.tensors[0]], y.words)
        for y in held
        if y is not buffer and y.first <= buffer.last and buffer.first <= y.last
    ]
    for shift in SHIFTS:
        start, end = base + shift, base + shift + buffer.words
        if start < 0 or end > capacity or any(a < end and start < a + n for a, n in others):
            continue
        yield {**bases, **dict.fromkeys(buffer.tensors, start)}


def _lost(
    network: Network,
    planner: Planner,
    chosen: Mapping[str, Layout],
    layers: Sequence[Layer],
    bases: Mapping[str, int],
) -> float:
    """Cycles that the layers' residuals take for themselves, but for the image's border."""
    total = 0.0
    for layer in layers:
        assert layer.residual is not None
        places = []
        for name in (layer.source, layer.residual.tensor):
            root = network.roots[name]
            offset, layout = planner.lies(root, chosen[root])[name]
            places.append((bases[root] + offset, layout))
        height, width, _ = network.tensors[layer.target].shape
        share = _stalled(planner, layer, *places)
        total += share * height * width * planner.groups(layer)
    return total


def _stalled(
    planner: Planner, layer: Layer, source: tuple[int, Layout], residual: tuple[int, Layout]
) -> float:
    """Share of pixels and words each step of which, but the last, reads the residual's bank."""
    banks = ACTIVATION_BANKS
    first, layout = source
    base, other = residual
    steps = planner.plan(layer, layout).body[:-1]
    if not steps:
        return 0.0
    taken = [{word.bank for word in step.words if word is not None} for step in steps]
    always = set.intersection(*taken)
    if not always or layout.fold:
        return 0.0
    count = min(banks, other.pixel_words)
    stalled = 0
    for y in range(banks):
        for x in range(banks):
            row, column = (
                n * stride - before
                for n, stride, before in zip((y, x), layer.stride, layer.padding[:2], strict=True)
            )
            origin = first + row * layout.row_step + column * layout.pixel_step
            word = base + y * other.row_step + x * other.pixel_step
            stalled += sum((word + w - origin) % banks in always for w in range(count))
    return stalled / (banks * banks * count)
