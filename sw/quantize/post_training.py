# SPDX-License-Identifier: Apache-2.0
"""Hybrid asymmetric post-training quantization.

Weights are symmetric with a scale for each output channel, activations asymmetric uint8 with one
scale a tensor (Wei, Ma, Yang, Yao, Appl. Sci. 2024, 14(17), 7445, Eq. 1-6).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict, Unpack

import numpy as np
from torch.export import ExportedProgram

from ..errors import DataError
from ..frontend.program import TRANSPOSED, layer_names, weighted_layers
from .calibration import UINT8, ActivationRanges, Progress, calibrate, check_images
from .parameters import ActivationScheme, QuantizationParameters, check_width
from .points import activation_points, check_float, folded_module
from .repairs import check_repairs, repair_parameters, repair_program
from .weights import channel_scales
from .write import attribute, write_program

__all__ = ["layer_names", "quantize"]


class Options(TypedDict, total=False):
    """How to quantize; what is left out is as in `decide`."""

    ranges: ActivationRanges | None
    """From `calibrate`: saves running the images when only widths change. They have a scheme of
    their own and belong to the program after those of `repairs` that change it."""
    method: str
    scheme: ActivationScheme
    """See `calibrate`. With one of powers of two, weight scales are such as well, and
    requantization only shifts."""
    weight_method: str
    """`default`, `max`, `mse`, `ocs-clip` or `entropy`: see `channel_scales`."""
    per_tensor: bool
    """One weight scale a layer."""
    repairs: Sequence[str]
    """Names of `repairs.REPAIRS`, in order; those that change the program come before calibration
    (see `repair_program`)."""
    progress: Progress | None
    """Called with (done, images) while calibrating."""


def quantize(
    program: ExportedProgram,
    x: np.ndarray,
    weights: int | Mapping[str, int] = 8,
    **options: Unpack[Options],
) -> ExportedProgram:
    """The PT2E-quantized program of a float one.

    `x`: calibration images, float32, (images, *input shape), e.g. NCHW. `weights`: bits, 2 to 8,
    of all layers or by layer name (see `layer_names`; layers left out have 8). Raises
    `FrontendError` for a program that is quantized already or has operators that are not supported,
    `DataError` for unsuitable images, widths, methods or layer names.
    """
    return write_program(*decide(program, x, weights, **options))


def decide(
    program: ExportedProgram,
    x: np.ndarray,
    weights: int | Mapping[str, int] = 8,
    *,
    ranges: ActivationRanges | None = None,
    method: str = "minmax",
    scheme: ActivationScheme = UINT8,
    weight_method: str = "default",
    per_tensor: bool = False,
    repairs: Sequence[str] = (),
    progress: Progress | None = None,
) -> tuple[ExportedProgram, QuantizationParameters]:
    """What `quantize` writes: the float program, repaired, and its parameters; see `Options`."""
    check_float(program)
    check_repairs(repairs)
    bits = layer_widths(program, weights)
    program = repair_program(program, repairs, bits)
    if ranges is None:
        ranges = calibrate(program, x, method=method, scheme=scheme, progress=progress)
    else:
        check_images(program, x[:1])
    parameters = choose_parameters(
        program, bits, ranges, weight_method=weight_method, per_tensor=per_tensor
    )
    return program, repair_parameters(program, parameters, x, repairs)


def choose_parameters(
    program: ExportedProgram,
    bits: Mapping[str, int],
    ranges: ActivationRanges,
    *,
    weight_method: str = "default",
    per_tensor: bool = False,
) -> QuantizationParameters:
    """The record of widths and ranges, with scales for the folded weights by `channel_scales`.

    `bits`: of every layer. Raises `DataError` as `channel_scales` does.
    """
    module = folded_module(program)
    scales = {}
    for node, name in weighted_layers(module.graph.nodes).items():
        weight = attribute(module, node.args[1])
        if weight is None:
            raise DataError(f"layer {name!r}: its weights are no constants of the program")
        axis = int(node.target in TRANSPOSED)
        scales[name] = channel_scales(
            weight.transpose(0, axis), bits[name], weight_method, per_tensor=per_tensor,
            power_of_two=ranges.scheme.power_of_two,
        ).numpy()  # fmt: skip
    activations = {node.name: ranges.parameters(node.name) for node in activation_points(module)}
    return QuantizationParameters(activations, dict(bits), scales)


def layer_widths(program: ExportedProgram, weights: int | Mapping[str, int]) -> dict[str, int]:
    """Bits of every layer, from bits for all or by name (others have 8). Raises `DataError`."""
    names = layer_names(program)
    if isinstance(weights, Mapping):
        unknown = sorted(set(weights) - set(names))
        if unknown:
            raise DataError(f"no layer {unknown[0]!r}; layers: {', '.join(names)}")
        bits = {name: weights.get(name, 8) for name in names}
    else:
        bits = dict.fromkeys(names, weights)
    for name, width in bits.items():
        check_width(name, width)
    return bits
