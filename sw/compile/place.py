# SPDX-License-Identifier: Apache-2.0
"""Place: for every tensor a layout and an address in the activation RAM, or a home in external
memory and the tiles in which layers use it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bitloop.hw.config import CoreConfig

from .allocate import buffers, fullest
from .banks import agree
from .homes import Homes, homes
from .layer import Kind, Network
from .layout import Layout
from .passes import Cut, whole
from .planner import Planner
from .region import Placed
from .spill import Solution, Spiller, Stage
from .tiles import Tiling


@dataclass(frozen=True, eq=False)
class Placement:
    """Where tensors lie and how layers are cut."""

    tensors: dict[str, Placed]
    """On the chip, by name."""
    homes: Homes
    """Of the others."""
    tilings: dict[int, Tiling]
    """By index of the layer, of those that are not computed whole."""
    stages: dict[int, Stage]
    """By index of the layer, where copies pass through the chip."""
    planner: Planner


def place(network: Network, config: CoreConfig, cuts: Mapping[str, Cut] | None = None) -> Placement:
    """Layouts with the fewest steps if they fit, else as many of them as fit; otherwise the tensors
    whose absence costs the fewest cycles go to external memory. An input too large for the RAM
    rather passes through it in blocks of rows than that layouts are worse.

    `cuts`: passes of each layer by name; one each without. Raises `CompileError` naming the layer
    whose smallest tile does not fit and by how much.
    """
    if cuts is None:
        cuts = {
            y.name: whole(y, network.tensors[y.source].shape[2], config) for y in network.layers
        }
    planner = Planner(network, config)
    roots = [name for name in network.tensors if name not in network.views]
    fast = {name: planner.choose(name, lambda c, words: (c, words)) for name in roots}
    fast = agree(network, planner, fast)
    tight = {name: planner.choose(name, lambda c, words: (words, c)) for name in roots}
    spiller = Spiller(network, config, planner, cuts, fast)
    solution = _solve(network, spiller, fast, tight)
    tensors = {}
    for name, layout in solution.chosen.items():
        first, last = network.lifetime(name)
        for part, (offset, own) in planner.lies(name, layout).items():
            tensors[part] = Placed(solution.bases[name] + offset, own, first, last)
    lie = homes(network, solution.external)
    return Placement(tensors, lie, solution.tilings, solution.stages, planner)


def _solve(
    network: Network, spiller: Spiller, fast: dict[str, Layout], tight: dict[str, Layout]
) -> Solution:
    """The first that fits: all fast; the first layer's input by tiles, if they are large; tight
    where memory is fullest, those first that save most; that and the input by tiles. Then spilling
    more."""
    start = _copied_inputs(network)
    solution = spiller.solve(fast, start)
    if isinstance(solution, Solution):
        return solution
    first = network.roots[network.layers[0].source]
    streamed = start | {first} if first in network.inputs else start
    if streamed != start:
        solution = spiller.solve(fast, streamed)
        if isinstance(solution, Solution) and spiller.large(solution.tilings.get(0)):
            return solution
    for chosen in _tighter(network, fast, tight):
        solution = spiller.solve(chosen, start)
        if isinstance(solution, Solution):
            return solution
    if streamed != start:
        solution = spiller.solve(tight, streamed)
        if isinstance(solution, Solution):
            return solution
    return spiller.search(fast, start)


def _copied_inputs(network: Network) -> set[str]:
    """Inputs that only layers read that copy them, from where they are."""
    result = set()
    for name in network.inputs:
        readers = [y for y in network.layers if any(network.roots[t] == name for t in y.reads)]
        if readers and all(layer.kind is Kind.COPY for layer in readers):
            result.add(name)
    return result


def _tighter(
    network: Network, fast: dict[str, Layout], tight: dict[str, Layout]
) -> Iterator[dict[str, Layout]]:
    chosen = dict(fast)
    while True:
        saving = {n: chosen[n].words - tight[n].words for n in chosen}
        if max(saving.values()) <= 0:
            return
        _, alive = fullest(buffers(network, chosen), len(network.layers))
        near = [n for buffer in alive for n in buffer.tensors if saving[n] > 0]
        name = max(near or saving, key=lambda n: saving[n])
        chosen[name] = tight[name]
        yield dict(chosen)
