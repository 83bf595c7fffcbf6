# SPDX-License-Identifier: Apache-2.0
"""What quantization costs, layer by layer, and what the integer network scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram
from torch.fx import Node

from ..codes import decode, encode
from ..errors import DataError
from ..frontend.program import weighted_layers
from ..graph.execute import execute
from ..graph.ir import Graph
from .calibration import BATCH, check_images
from .parameters import QuantizationParameters
from .points import activation_points, folded_module, single_input
from .simulate import Both, Simulation

_GOLDEN_BATCH = 256
"""Images the golden model is given at a time."""


@dataclass(frozen=True)
class LayerError:
    """How far a layer of the quantized network is from the float network's."""

    layer: str
    bits: int
    """Of its weights."""
    weight_sqnr: float
    """Signal to quantization noise of the weights, decibels: 10 log10(sum w^2 / sum (w - s q)^2);
    infinite without noise."""
    sqnr: float
    """The same of the layer's result after its activation, rounded to codes, with all that the
    layers before it have lost."""
    mse: float
    """Mean squared error of the layer's result."""


def layer_errors(
    program: ExportedProgram, parameters: QuantizationParameters, x: np.ndarray
) -> list[LayerError]:
    """SQNR and MSE of every weighted layer on images `x`, the lowest SQNR first.

    `program`: the float program that `parameters` are for. Raises `DataError` for unsuitable
    images.
    """
    x = check_images(program, x)
    module = folded_module(program)
    simulation = Simulation(module, parameters)
    points = set(activation_points(module))
    results = {_result(node, points): node for node in simulation.layers}
    sums = {node: np.zeros(3) for node in results}

    def observe(node: Node, exact: torch.Tensor, quantized: torch.Tensor) -> None:
        if node in sums:
            exact = exact.double()
            noise = (exact - quantized).square_().sum()
            sums[node] += float(exact.square().sum()), float(noise), exact.numel()

    size = single_input(program).meta["val"].shape[0]
    both = Both(module, simulation)
    with torch.no_grad():
        for start in range(0, len(x), BATCH):
            images = x[start : start + BATCH]
            if isinstance(size, int):
                images = np.resize(images, (size, *images.shape[1:]))
            both.run(torch.from_numpy(np.ascontiguousarray(images)), observe=observe)
    errors = []
    for result, node in results.items():
        layer, (signal, noise, count) = simulation.layers[node], sums[result]
        lost = float((layer.weight - layer.quantized).double().square().sum())
        kept = float(layer.weight.double().square().sum())
        errors.append(
            LayerError(
                layer.name, layer.bits, _decibels(kept, lost), _decibels(signal, noise),
                noise / max(count, 1),
            )
        )  # fmt: skip
    return sorted(errors, key=lambda error: error.sqnr)


def integer_outputs(graph: Graph, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Real values of the integer graph's only output, (images, ...), by the golden model.

    Raises `DataError` for a graph of several inputs or outputs, or unsuitable `x`.
    """
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise DataError(f"{graph.name}: must have one input and one output to be scored")
    source, target = graph.tensors[graph.inputs[0]], graph.tensors[graph.outputs[0]]
    parts = [
        decode(target, execute(graph, {source.name: encode(source, piece)})[target.name])
        for piece in (x[i : i + _GOLDEN_BATCH] for i in range(0, len(x), _GOLDEN_BATCH))
    ]
    return np.concatenate(parts)


def integer_accuracy(graph: Graph, x: NDArray[np.float32], y: NDArray[np.int64]) -> float:
    """Share of images whose largest output, by the golden model, is at their label's place."""
    scores = integer_outputs(graph, x)
    return float((scores.reshape(len(scores), -1).argmax(1) == y).mean())


def _result(node: Node, points: set[Node]) -> Node:
    """The activation that ends a layer: where its result is rounded to codes, else the layer."""
    last = node
    while last not in points and len(last.users) == 1:
        (user,) = last.users
        if len(user.all_input_nodes) > 1 and user not in points:
            break
        if user.op == "output" or user in weighted_layers([user]):
            break
        last = user
    return last if last in points else node


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def as_json(error: LayerError) -> Mapping[str, object]:
    """A layer's entry in JSON; infinite ratios, which JSON has not, become null."""
    return {
        "layer": error.layer,
        "bits": error.bits,
        "weight_sqnr_db": error.weight_sqnr if math.isfinite(error.weight_sqnr) else None,
        "sqnr_db": error.sqnr if math.isfinite(error.sqnr) else None,
        "mse": error.mse,
    }
