# SPDX-License-Identifier: Apache-2.0
"""Post-training repairs by name: of the float program before it is quantized, or of its layers'
parameters afterwards. They compose in the order given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.fx import Node

from ..errors import DataError
from ..frontend.program import BATCH_NORM, weighted_layers
from .calibration import check_images
from .equalize import equalize
from .fold import fold_batch_norm
from .layer_repairs import correct_bias, reestimate_batch_norm, rounding
from .parameters import QuantizationParameters
from .points import folded_module
from .simulate import Both, Layer, Repair, Simulation, Site
from .split import split_outliers

ProgramRepair = Callable[[ExportedProgram, Mapping[str, int]], ExportedProgram]
"""Called with the float program and the bits of its layers' weights."""

PROGRAM_REPAIRS: dict[str, ProgramRepair] = {
    "fold-batch-norm": lambda program, bits: fold_batch_norm(program),
    "equalize": lambda program, bits: equalize(program),
    "split-outliers": split_outliers,
}
LAYER_REPAIRS: dict[str, Repair] = {
    "rounding": rounding(),
    "batch-norm": reestimate_batch_norm,
    "bias-correction": correct_bias,
}
REPAIRS = (*PROGRAM_REPAIRS, *LAYER_REPAIRS)

_LARGEST_TENSOR = 1 << 27
"""Values of one activation over all images that repairs use (512 MB)."""


def check_repairs(names: Iterable[str]) -> None:
    """Raises `DataError` for a name that is not in `REPAIRS`."""
    for name in names:
        if name not in REPAIRS:
            raise DataError(f"repair {name!r} must be one of {', '.join(REPAIRS)}")


def repair_program(
    program: ExportedProgram, names: Iterable[str], bits: Mapping[str, int]
) -> ExportedProgram:
    """The float program after those of the repairs that change programs, in order. `bits`: of the
    weights, by layer. Raises `DataError` for an unknown name."""
    names = list(names)
    check_repairs(names)
    for name in names:
        if name in PROGRAM_REPAIRS:
            program = PROGRAM_REPAIRS[name](program, bits)
    return program


def repair_parameters(
    program: ExportedProgram,
    parameters: QuantizationParameters,
    x: np.ndarray,
    names: Iterable[str],
    progress: Callable[[str], None] = lambda layer: None,
) -> QuantizationParameters:
    """The parameters after those of the repairs that change layers.

    Layers are repaired from first to last, each by all repairs in order, with what the repaired
    layers before it make of images `x` (as many as fit in memory) and what the float network
    computes. `progress(layer)` is called at each. Raises `DataError` for unknown names or
    unsuitable images.
    """
    names = list(names)
    check_repairs(names)
    repairs = {name: LAYER_REPAIRS[name] for name in names if name in LAYER_REPAIRS}
    if not repairs:
        return parameters
    x = check_images(program, x)
    module = folded_module(program)
    normalized = _normalized_layers(program)
    simulation = Simulation(module, parameters)

    def repair(site: Site) -> Layer:
        progress(site.layer.name)
        for name, change in repairs.items():
            if name == "batch-norm" and site.layer.name not in normalized:
                continue
            site = _with_layer(site, change(site))
        return site.layer

    with torch.no_grad():
        Both(module, simulation).run(_images(program, module.graph.nodes, x), repair)
    return simulation.parameters()


def _with_layer(site: Site, layer: Layer) -> Site:
    return Site(site.node, layer, site.exact_output, site.inputs, site.compute)


def _normalized_layers(program: ExportedProgram) -> set[str]:
    """Names of layers that a batch-norm follows in the program before folding."""
    return {
        name
        for node, name in weighted_layers(program.graph.nodes).items()
        if any(user.target == BATCH_NORM for user in node.users)
    }


def _images(program: ExportedProgram, nodes: Iterable[Node], x: np.ndarray) -> torch.Tensor:
    """As many images as repairs can hold at once; exactly the batch of a program that has one."""
    values = [node.meta.get("val") for node in nodes]
    tensors = [v for v in values if isinstance(v, torch.Tensor) and v.ndim > 1]
    largest = max(int(np.prod([int(s) for s in v.shape[1:]])) for v in tensors)
    batch = next(node.meta["val"].shape[0] for node in nodes if node.op == "placeholder")
    if isinstance(batch, int):
        return torch.from_numpy(np.resize(x, (batch, *x.shape[1:])))
    return torch.from_numpy(x[: max(1, _LARGEST_TENSOR // largest)])
