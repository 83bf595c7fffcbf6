# SPDX-License-Identifier: Apache-2.0
"""Quantized programs from parameters: PT2E's own form, through torchao's prepare and convert.

PyTorch runs the result, and widths stand in its operators as limits of the codes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule, Node

from ..errors import DataError
from ..frontend.program import TRANSPOSED, arguments, layer_names, weighted_layers
from .parameters import QuantizationParameters
from .points import (
    activation_points,
    check_float,
    example_input,
    folded_module,
    load_torchao,
    single_input,
)
from .weights import code_limits


def write_program(program: ExportedProgram, parameters: QuantizationParameters) -> ExportedProgram:
    """The PT2E-quantized program of a float one with exactly these parameters.

    Batch-norm is folded into the layers before it. Raises `FrontendError` for a program that is
    quantized already or has operators that are not supported, `DataError` where parameters are
    missing, name what is not there, or do not fit the layer.
    """
    check_float(program)
    names = tuple(node.name for node in activation_points(folded_module(program)))
    parameters.check(layer_names(program), names)
    load_torchao()
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    example = example_input(program)
    prepared = prepare_pt2e(program.module(check_guards=False), _quantizer(parameters))
    _give_constants(prepared, parameters)
    with torch.no_grad():
        prepared(example)
    converted = convert_pt2e(prepared)
    _drop_unused(converted)
    return torch.export.export(converted, (example,), dynamic_shapes=dynamic_batch(program))


def dynamic_batch(program: ExportedProgram) -> tuple[dict[int, object] | None] | None:
    """What `torch.export.export` needs to keep the input's dynamic dimensions."""
    sizes = single_input(program).meta["val"].shape
    dynamic: dict[int, object] = {
        i: Dim.AUTO for i, size in enumerate(sizes) if not isinstance(size, int)
    }
    return (dynamic,) if dynamic else None


def attribute(module: GraphModule, node: object) -> torch.Tensor | None:
    """The tensor that a `get_attr` node reads (through an observer, if one is there)."""
    while isinstance(node, Node) and node.op == "call_module":
        (node,) = node.all_input_nodes
    if not isinstance(node, Node) or node.op != "get_attr":
        return None
    value: object = module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value if isinstance(value, torch.Tensor) else None


def _give_constants(prepared: GraphModule, parameters: QuantizationParameters) -> None:
    """Put given weight codes (times their scales) and biases in the prepared module's layers."""
    for node, name in weighted_layers(prepared.graph.nodes).items():
        weight = attribute(prepared, node.args[1])
        if weight is None:
            raise DataError(f"layer {name!r}: its weights are no constants of the program")
        axis = int(node.target in TRANSPOSED)
        scales = torch.from_numpy(np.array(parameters.weight_scales[name], np.float32))
        if scales.shape != weight.shape[axis : axis + 1]:
            raise DataError(
                f"layer {name!r}: {weight.shape[axis]} weight scales are needed, one an output "
                f"channel, not {tuple(scales.shape)}"
            )
        if name in parameters.weight_codes:
            codes = torch.from_numpy(np.array(parameters.weight_codes[name], np.float32))
            if codes.shape != weight.shape:
                raise DataError(
                    f"layer {name!r}: weight codes must have the shape {tuple(weight.shape)}, not "
                    f"{tuple(codes.shape)}"
                )
            shape = [1] * weight.ndim
            shape[axis] = -1
            observer = node.args[1]
            assert isinstance(observer, Node)
            observer.args = (_constant(prepared, observer, codes * scales.reshape(shape)),)
        if name in parameters.biases:
            bias = torch.from_numpy(np.array(parameters.biases[name], np.float32))
            channels = output_channels(node, weight)
            if bias.shape != (channels,):
                raise DataError(
                    f"layer {name!r}: a bias must have the shape ({channels},), not "
                    f"{tuple(bias.shape)}"
                )
            node.args = (*node.args[:2], _constant(prepared, node, bias), *node.args[3:])
    prepared.recompile()


def _drop_unused(module: GraphModule) -> None:
    """Removes parameters and buffers that nothing reads: float weights, which have become codes,
    and batch-norm's. Files would hold them too."""
    used = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    held = [name for name, _ in (*module.named_parameters(), *module.named_buffers())]
    for name in held:
        if name not in used:
            *path, last = name.split(".")
            delattr(module.get_submodule(".".join(path)), last)


def output_channels(node: Node, weight: torch.Tensor) -> int:
    """Output channels (features) of a weighted node."""
    if node.target not in TRANSPOSED:
        return weight.shape[0]
    return weight.shape[1] * int(arguments(node)["groups"])


def _constant(module: GraphModule, before: Node, value: torch.Tensor) -> Node:
    """A new node, before another, that reads a new buffer."""
    name = f"_given_{before.name}"
    module.register_buffer(name, value)
    with module.graph.inserting_before(before):
        node = module.graph.get_attr(name)
    node.meta["val"] = value
    return node


def _quantizer(parameters: QuantizationParameters) -> object:
    """A PT2E quantizer whose observers hold parameters decided beforehand."""
    from torchao.quantization.pt2e.observer import ObserverBase
    from torchao.quantization.pt2e.quantizer import (
        QuantizationAnnotation,
        QuantizationSpec,
        Quantizer,
    )

    class Given(ObserverBase):
        """Observes nothing: scales and zero-points are given."""

        eps = 2**-40

        def __init__(
            self, dtype: torch.dtype, limits: tuple[int, int], scales: torch.Tensor,
            zero_points: torch.Tensor, axis: int = -1, **kwargs: object,
        ) -> None:  # fmt: skip
            super().__init__(dtype=dtype)
            self.quant_min, self.quant_max = limits
            self.scales, self.zero_points, self.ch_axis = scales, zero_points, axis
            self.qscheme = torch.per_tensor_affine if axis < 0 else torch.per_channel_symmetric

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

        def calculate_qparams(self, **kwargs: object) -> tuple[torch.Tensor, torch.Tensor]:
            return self.scales, self.zero_points

    def weights(name: str, axis: int) -> object:
        low, high = code_limits(parameters.bits[name])
        scales = torch.from_numpy(np.array(parameters.weight_scales[name], np.float32))
        return QuantizationSpec(
            dtype=torch.int8, quant_min=low, quant_max=high,
            qscheme=torch.per_channel_symmetric, ch_axis=axis,
            observer_or_fake_quant_ctr=Given.with_args(
                dtype=torch.int8, limits=(low, high), scales=scales,
                zero_points=torch.zeros(len(scales), dtype=torch.int64), axis=axis,
            ),
        )  # fmt: skip

    def activation(name: str) -> object:
        given = parameters.activations[name]
        return QuantizationSpec(
            dtype=torch.uint8, quant_min=given.low, quant_max=given.high,
            qscheme=torch.per_tensor_affine,
            observer_or_fake_quant_ctr=Given.with_args(
                dtype=torch.uint8, limits=(given.low, given.high),
                scales=torch.tensor([given.scale]),
                zero_points=torch.tensor([given.zero_point]),
            ),
        )  # fmt: skip

    class HybridAsymmetric(Quantizer):
        def annotate(self, model: GraphModule) -> GraphModule:
            names = weighted_layers(model.graph.nodes)
            points = set(activation_points(model))
            for node in model.graph.nodes:
                inputs = {}
                if node in names:
                    axis = int(node.target in TRANSPOSED)
                    inputs[node.args[1]] = weights(names[node], axis)
                output = activation(node.name) if node in points else None
                if inputs or output:
                    node.meta["quantization_annotation"] = QuantizationAnnotation(
                        input_qspec_map=inputs, output_qspec=output, _annotated=True
                    )
            return model

        def validate(self, model: GraphModule) -> None:
            return None

    return HybridAsymmetric()
