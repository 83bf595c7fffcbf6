# SPDX-License-Identifier: Apache-2.0
"""Hybrid asymmetric post-training quantization, on torchao's PT2E.

Weights are symmetric with a scale for each output channel, activations asymmetric uint8 with one
scale a tensor (Wei, Ma, Yang, Yao, Appl. Sci. 2024, 14(17), 7445, Eq. 1-6). The result is an
ordinary PT2E program: PyTorch runs it, and widths stand in its operators as limits of the codes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from ..errors import DataError
from ..frontend.program import TRANSPOSED, layer_names, weighted_layers
from .calibration import ActivationRanges, Progress, calibrate, check_images
from .points import (
    activation_points,
    check_float,
    example_input,
    load_torchao,
    single_input,
)
from .weights import WIDTHS, channel_scales, code_limits

__all__ = ["layer_names", "quantize"]


def quantize(
    program: ExportedProgram,
    x: np.ndarray,
    weights: int | Mapping[str, int] = 8,
    *,
    ranges: ActivationRanges | None = None,
    method: str = "minmax",
    progress: Progress | None = None,
) -> ExportedProgram:
    """The PT2E-quantized program of a float one.

    `x`: calibration images, float32, (images, *input shape), e.g. NCHW. `weights`: bits, 2 to 8,
    of all layers or by layer name (see `layer_names`; layers left out have 8). `ranges`, from
    `calibrate`, saves running `x` when only widths change. `progress(done, images)` is called while
    calibrating. Raises `FrontendError` for a program that is quantized already or has operators
    that are not supported, `DataError` for unsuitable images, widths or layer names.
    """
    check_float(program)
    bits = _widths(program, weights)
    if ranges is None:
        ranges = calibrate(program, x, method=method, progress=progress)
    else:
        check_images(program, x[:1])
    load_torchao()
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    example = example_input(program)
    module = program.module(check_guards=False)
    prepared = prepare_pt2e(module, _quantizer(bits, ranges))
    with torch.no_grad():
        prepared(example)
    converted = convert_pt2e(prepared)
    return torch.export.export(converted, (example,), dynamic_shapes=_dynamic(program))


def _widths(program: ExportedProgram, weights: int | Mapping[str, int]) -> dict[str, int]:
    names = layer_names(program)
    if isinstance(weights, Mapping):
        unknown = sorted(set(weights) - set(names))
        if unknown:
            raise DataError(f"no layer {unknown[0]!r}; layers: {', '.join(names)}")
        bits = {name: weights.get(name, 8) for name in names}
    else:
        bits = dict.fromkeys(names, weights)
    for name, width in bits.items():
        if width not in WIDTHS:
            raise DataError(f"layer {name!r}: weights must have 2 to 8 bits, not {width!r}")
    return bits


def _dynamic(program: ExportedProgram) -> tuple[dict[int, object] | None] | None:
    sizes = single_input(program).meta["val"].shape
    dynamic: dict[int, object] = {
        i: Dim.AUTO for i, size in enumerate(sizes) if not isinstance(size, int)
    }
    return (dynamic,) if dynamic else None


def _quantizer(bits: Mapping[str, int], ranges: ActivationRanges) -> object:
    """A PT2E quantizer whose observers hold parameters decided beforehand."""
    from torchao.quantization.pt2e.observer import ObserverBase
    from torchao.quantization.pt2e.quantizer import (
        QuantizationAnnotation,
        QuantizationSpec,
        Quantizer,
    )

    class Activation(ObserverBase):
        qscheme = torch.per_tensor_affine
        quant_min, quant_max, eps, ch_axis = 0, 255, 2**-40, -1

        def __init__(self, scale: float, zero_point: int, **kwargs: object) -> None:
            super().__init__(dtype=torch.uint8)
            self.scale, self.zero_point = scale, zero_point

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

        def calculate_qparams(self, **kwargs: object) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.tensor([self.scale]), torch.tensor([self.zero_point])

    class Weights(ObserverBase):
        qscheme = torch.per_channel_symmetric
        eps, ch_axis = 2**-40, 0

        def __init__(self, width: int, axis: int, **kwargs: object) -> None:
            super().__init__(dtype=torch.int8)
            self.width, self.ch_axis = width, axis
            self.quant_min, self.quant_max = code_limits(width)
            self.scales = torch.ones(1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.scales = channel_scales(x.transpose(0, self.ch_axis), self.width)
            return x

        def calculate_qparams(self, **kwargs: object) -> tuple[torch.Tensor, torch.Tensor]:
            return self.scales, torch.zeros(len(self.scales), dtype=torch.int64)

    class HybridAsymmetric(Quantizer):
        def annotate(self, model: GraphModule) -> GraphModule:
            names = weighted_layers(model.graph.nodes)
            outputs = {node: None for node in activation_points(model)}
            for node in model.graph.nodes:
                inputs = {}
                if node in names:
                    width = bits[names[node]]
                    low, high = code_limits(width)
                    axis = int(node.target in TRANSPOSED)
                    inputs[node.args[1]] = QuantizationSpec(
                        dtype=torch.int8, quant_min=low, quant_max=high,
                        qscheme=torch.per_channel_symmetric, ch_axis=axis,
                        observer_or_fake_quant_ctr=Weights.with_args(width=width, axis=axis),
                    )  # fmt: skip
                output = None
                if node in outputs:
                    scale, zero_point = ranges.parameters(node.name)
                    output = QuantizationSpec(
                        dtype=torch.uint8, quant_min=0, quant_max=255,
                        qscheme=torch.per_tensor_affine,
                        observer_or_fake_quant_ctr=Activation.with_args(
                            scale=scale, zero_point=zero_point
                        ),
                    )  # fmt: skip
                if inputs or output:
                    node.meta["quantization_annotation"] = QuantizationAnnotation(
                        input_qspec_map=inputs, output_qspec=output, _annotated=True
                    )
            return model

        def validate(self, model: GraphModule) -> None:
            return None

    return HybridAsymmetric()
