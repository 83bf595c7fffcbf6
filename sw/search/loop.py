# SPDX-License-Identifier: Apache-2.0
"""The search: measure, rank, solve, measure the answer whole, and correct.

1. The network is quantized uniformly at each width and run whole on the device: cycles of every
   layer in context.
2. A sensitivity for each layer and width, from the golden executor, without labels.
3. The exact optimum under the budget (`solver`), then quantized, compiled and measured whole.
   The whole may differ from the sum of its layers (loads that overlap differently), so the
   difference is fed back and the program solved again: down if the whole missed the budget, up
   while it leaves room for a better choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.export import ExportedProgram

from bitloop.hw.config import CoreConfig

from ..codes import encode
from ..compile import compile_graph
from ..dataset import Dataset
from ..devices.interface import Device
from ..errors import SearchError
from ..frontend.torch_export import import_program, is_quantized
from ..graph.ir import Graph
from ..programs import run_program
from ..quantize import calibrate, layer_names, quantize
from .latency import LatencyTable, Measurement, measure
from .problem import Choice, Problem, Progress
from .sensitivity import METHODS, Context, outputs
from .solvers import cheapest, integer_program

RANKING_IMAGES = 512
"""Images that calibrate and rank, at most: more change the ranking no further."""
MAX_CANDIDATES = 12
"""Whole-network measurements after the uniform ones, at most."""


@dataclass(frozen=True)
class SearchedLayer:
    name: str
    weight_bits: int | None
    """None for a layer without weights."""
    cycles: int
    """In context, from the uniform run of this width."""


@dataclass(frozen=True, eq=False)
class SearchResult:
    layers: tuple[SearchedLayer, ...]
    cycles: int
    """Of the chosen network, measured whole."""
    cycles_sum_of_layers: int
    """What the table predicted for it: its layers, head and tail."""
    cycles_uniform8: int
    accuracy_float: float | None
    accuracy_uniform8: float | None
    accuracy: float | None
    """Fractions of the scoring images; None without labels."""
    evaluations: int
    """Whole networks measured on the device."""
    program: ExportedProgram
    """The chosen network, quantized."""

    @property
    def weight_bits(self) -> dict[str, int]:
        return {layer.name: layer.weight_bits for layer in self.layers if layer.weight_bits}

    def as_dict(self) -> dict[str, Any]:
        """The JSON form; its keys are a public contract."""
        return {
            "layers": [vars(layer) for layer in self.layers],
            "cycles": self.cycles,
            "cycles_sum_of_layers": self.cycles_sum_of_layers,
            "cycles_uniform8": self.cycles_uniform8,
            "accuracy_float": self.accuracy_float,
            "accuracy_uniform8": self.accuracy_uniform8,
            "accuracy": self.accuracy,
            "evaluations": self.evaluations,
        }


@dataclass(frozen=True, eq=False)
class _Candidate:
    program: ExportedProgram
    graph: Graph
    measurement: Measurement

    @property
    def cycles(self) -> int:
        return self.measurement.profile.cycles


class _Evaluator:
    """Quantizes, compiles and measures one choice of widths; counts how often."""

    def __init__(
        self, program: ExportedProgram, x: NDArray[np.float32], config: CoreConfig, device: Device
    ) -> None:
        self.program, self.x, self.config, self.device = program, x, config, device
        self.ranges = calibrate(program, x)
        self.evaluations = 0

    def __call__(self, weights: int | Choice) -> _Candidate:
        quantized = quantize(self.program, self.x, weights, ranges=self.ranges)
        graph = import_program(quantized, "network", self.config.multiplier_bits)
        measurement = measure(compile_graph(graph, self.config), self.device)
        self.evaluations += 1
        return _Candidate(quantized, graph, measurement)


def check_budget(cycles: int | None, ratio: float | None) -> None:
    """Raises `SearchError` unless exactly one budget is given and makes sense."""
    if (cycles is None) == (ratio is None):
        raise SearchError("give one budget: cycles, or a ratio of the uniform 8-bit network's")
    if cycles is not None and cycles <= 0:
        raise SearchError(f"budget of {cycles} cycles: must be above 0")
    if ratio is not None and not 0 < ratio <= 1:
        raise SearchError(f"budget ratio {ratio}: must be above 0 and at most 1")


def search(
    program: ExportedProgram,
    data: Dataset,
    *,
    config: CoreConfig,
    device: Device,
    budget_cycles: int | None = None,
    budget_ratio: float | None = None,
    evaluation: Dataset | None = None,
    seed: int = 0,
    progress: Progress = lambda message: None,
) -> SearchResult:
    """Widths for the weighted layers of a float `program`, with inputs `data.x`, on `config`.

    Exactly one budget must be given. A half of `data`, drawn by `seed`, calibrates and ranks and
    the other scores, unless `evaluation` is given: then all of `data` ranks. Raises `SearchError`
    when the budget is out of reach (with the least cycles measured) or makes no sense.
    """
    check_budget(budget_cycles, budget_ratio)
    if is_quantized(program):
        raise SearchError("the network is quantized already: the search needs the float network")

    ranking, scoring = data.halves(seed) if evaluation is None else (data, evaluation)
    ranking = ranking.take(slice(RANKING_IMAGES))
    evaluate = _Evaluator(program, ranking.x, config, device)
    uniform: dict[int, _Candidate] = {}
    for width in config.weight_widths:
        progress(f"measuring the uniform {width}-bit network")
        uniform[width] = evaluate(width)
    graphs = {width: candidate.graph for width, candidate in uniform.items()}
    table = LatencyTable({w: c.measurement for w, c in uniform.items()}, layer_names(program))
    uniform8 = uniform[8].cycles
    budget = budget_cycles or int((budget_ratio or 1.0) * uniform8)

    context = Context.of(program, graphs, ranking.x, ranking.y, seed=seed, progress=progress)
    _encode_inputs(graphs[8], scoring.x[:1])  # unsuitable images are refused before the work
    losses = METHODS["kl"](context)
    choice, best = _solve_and_correct(losses, table, budget, uniform[8], evaluate, progress)

    progress("scoring")
    return SearchResult(
        layers=_layers(table, choice),
        cycles=best.cycles,
        cycles_sum_of_layers=table.predict(choice),
        cycles_uniform8=uniform8,
        accuracy_float=_accuracy(scoring, lambda x: run_program(program, x)),
        accuracy_uniform8=_accuracy(scoring, lambda x: _integer_outputs(graphs[8], x)),
        accuracy=_accuracy(scoring, lambda x: _integer_outputs(best.graph, x)),
        evaluations=evaluate.evaluations,
        program=best.program,
    )


def _solve_and_correct(
    losses: Mapping[str, Mapping[int, float]],
    table: LatencyTable,
    budget: int,
    uniform8: _Candidate,
    evaluate: Callable[[Choice], _Candidate],
    progress: Progress,
) -> tuple[Choice, _Candidate]:
    """The choice of least loss found whose whole-network cycles meet the budget."""
    widest = {name: 8 for name in table.weighted}
    if uniform8.cycles <= budget:  # nothing loses less
        return widest, uniform8

    def problem(room: int) -> Problem:
        return Problem(losses, {"cycles": table.cycles}, {"cycles": room}, excluded=tuple(seen))

    def loss(choice: Choice) -> float:
        return sum(losses[name][width] for name, width in choice.items())

    seen: list[Choice] = [widest]
    best: tuple[Choice, _Candidate] | None = None
    least = uniform8.cycles
    difference = 0
    while len(seen) <= MAX_CANDIDATES:
        room = budget - table.fixed - difference
        choice = integer_program(problem(room))
        if best is not None and (choice is None or loss(choice) >= loss(best[0])):
            break
        if choice is None or len(seen) == MAX_CANDIDATES:
            choice = cheapest(problem(room), "cycles")
            if choice in seen:
                break
        bits = " ".join(str(width) for width in choice.values())
        progress(f"measuring candidate {len(seen)}: {bits}")
        candidate = evaluate(choice)
        seen.append(choice)
        least = min(least, candidate.cycles)
        if candidate.cycles <= budget and (best is None or loss(choice) < loss(best[0])):
            best = choice, candidate
        difference = candidate.cycles - table.predict(choice)
    if best is None:
        raise SearchError(
            f"budget of {budget} cycles is out of reach: the least that this network reaches on "
            f"this core is {least} cycles (uniform 8-bit: {uniform8.cycles}); "
            f"raise the budget or take a larger preset"
        )
    return best


def _layers(table: LatencyTable, choice: Choice) -> tuple[SearchedLayer, ...]:
    cycles = table.cycles
    return tuple(
        SearchedLayer(name, choice[name], cycles[name][choice[name]])
        if name in choice
        else SearchedLayer(name, None, fixed)
        for name, fixed in table.widest.layer_cycles.items()
    )


def _encode_inputs(graph: Graph, x: NDArray[np.float32]) -> dict[str, NDArray[np.uint8]]:
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise SearchError(
            f"the search takes networks of one input and one output, not {len(graph.inputs)} "
            f"and {len(graph.outputs)}"
        )
    return {graph.inputs[0]: encode(graph.tensors[graph.inputs[0]], x)}


def _integer_outputs(graph: Graph, x: NDArray[np.float32]) -> NDArray[np.float32]:
    return outputs(graph, _encode_inputs(graph, x))


def _accuracy(
    data: Dataset, predict: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> float | None:
    if data.y is None:
        return None
    scores = predict(data.x).reshape(len(data), -1)
    return float((scores.argmax(axis=1) == data.y).mean())
