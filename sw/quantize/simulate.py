# SPDX-License-Identifier: Apache-2.0
"""Quantized networks in floating point: what analysis measures and repairs work on.

The folded float module runs with weights s * q and with activations rounded to their codes' values;
it equals the integer network up to ties. `Both` runs it in step with the float network.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Interpreter, Node

from ..frontend.program import TRANSPOSED, arguments, weighted_layers
from .calibration import check_images, run_batches
from .parameters import ActivationParameters, QuantizationParameters
from .points import TRANSPARENT, activation_points, folded_module
from .weights import code_limits
from .write import attribute


@dataclass(frozen=True, eq=False)
class Layer:
    """A weighted layer's constants."""

    name: str
    bits: int
    weight: torch.Tensor
    """The float (folded) weights."""
    axis: int
    """Of the output channels in `weight`."""
    codes: torch.Tensor
    """float32 integers, the shape of `weight`."""
    scales: torch.Tensor
    """One an output channel."""
    bias: torch.Tensor | None
    """Real values, one an output channel."""

    def broadcast(self, scales: torch.Tensor) -> torch.Tensor:
        """Values of the output channels in a shape that multiplies weights."""
        shape = [1] * self.weight.ndim
        shape[self.axis] = -1
        return scales.reshape(shape)

    @property
    def quantized(self) -> torch.Tensor:
        """s * q."""
        return self.codes * self.broadcast(self.scales)


class Simulation(Interpreter):
    """Runs a folded module as quantized by parameters. With `layers_only`, activations are rounded
    only where a weighted layer reads them, so that additions see real values."""

    def __init__(
        self, module: GraphModule, parameters: QuantizationParameters, *, layers_only: bool = False
    ) -> None:
        super().__init__(module)
        self.given = parameters
        self.layers: dict[Node, Layer] = {}
        points = {n: parameters.activations[n.name] for n in activation_points(module)}
        self.rounded = {} if layers_only else points
        self.rounded_inputs: dict[Node, ActivationParameters] = {}
        for node, name in weighted_layers(module.graph.nodes).items():
            self.layers[node] = _layer(module, node, name, parameters)
            source = _point_before(node, points) if layers_only else None
            if source is not None:
                self.rounded_inputs[node] = points[source]

    def parameters(self) -> QuantizationParameters:
        """The parameters with the layers as they are now."""
        layers = self.layers.values()
        return dataclasses.replace(
            self.given,
            weight_scales={n.name: n.scales.numpy().astype(np.float32) for n in layers},
            weight_codes={n.name: n.codes.numpy().astype(np.int8) for n in layers},
            biases={
                n.name: n.bias.numpy().astype(np.float32) for n in layers if n.bias is not None
            },
        )

    def run_node(self, n: Node) -> Any:
        if n.op == "call_module" and n.target == "_guards_fn":
            return None
        if n in self.layers:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            layer = self.layers[n]
            value = args[0]
            if n in self.rounded_inputs:
                value = round_to_codes(value, self.rounded_inputs[n])
            value = call(n, (value, *args[1:]), kwargs, layer.quantized, layer.bias)
        else:
            value = super().run_node(n)
        return round_to_codes(value, self.rounded[n]) if n in self.rounded else value


def call(
    node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], weight: torch.Tensor,
    bias: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    """A weighted node's result with another weight and bias."""
    kwargs = {k: v for k, v in kwargs.items() if k != "bias"}
    return node.target(args[0], weight, bias, *args[3:], **kwargs)  # type: ignore[operator]


def round_to_codes(value: torch.Tensor, codes: ActivationParameters) -> torch.Tensor:
    """s * (clamp(round(x / s) + z, low, high) - z)."""
    return torch.fake_quantize_per_tensor_affine(
        value, codes.scale, codes.zero_point, codes.low, codes.high
    )


def simulate(
    program: ExportedProgram,
    parameters: QuantizationParameters,
    x: np.ndarray,
    *,
    layers_only: bool = False,
) -> np.ndarray:
    """Outputs of the quantized network on images `x`, computed in floating point.

    `layers_only`: round activations only where a weighted layer reads them (the usual simulation in
    papers); additions, poolings and outputs keep real values, which no integer hardware does.
    Raises `DataError` for parameters that do not suit the program.
    """
    x = check_images(program, x)
    module = folded_module(program)
    simulation = Simulation(module, parameters, layers_only=layers_only)
    outputs = [value.numpy() for value in run_batches(program, simulation, x)]
    return np.concatenate(outputs)[: len(x)]


@dataclass(frozen=True, eq=False)
class Site:
    """A weighted layer while `Both` passes it."""

    node: Node
    layer: Layer
    exact_output: torch.Tensor
    """What the float network computes there."""
    inputs: torch.Tensor
    """What the quantized network, as repaired so far, reads there."""
    compute: Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
    """Result from (some of the) inputs, weight and bias."""

    def output(self, layer: Layer) -> torch.Tensor:
        """What the quantized network computes there with this layer."""
        return self.compute(self.inputs, layer.quantized, layer.bias)


Repair = Callable[[Site], Layer]
Observe = Callable[[Node, torch.Tensor, torch.Tensor], None]
"""Called with every node and its tensors of the float and of the quantized network."""


class Both:
    """The float and the quantized network, node by node side by side."""

    def __init__(self, module: GraphModule, simulation: Simulation) -> None:
        self.module = module
        self.exact, self.quantized = Interpreter(module), simulation

    def run(
        self, images: torch.Tensor, repair: Repair | None = None, observe: Observe | None = None
    ) -> None:
        """Passes all images through both at once; `repair` may change each weighted layer of the
        quantized network before it runs, with what comes before it already repaired."""
        sides = (self.exact, self.quantized)
        for side in sides:
            side.env = {}
        for node in self.module.graph.nodes:
            if node.op == "output" or (node.op == "call_module" and node.target == "_guards_fn"):
                continue
            for side in sides:
                if node.op == "placeholder":
                    value: Any = images
                    if node in self.quantized.rounded and side is self.quantized:
                        value = round_to_codes(value, self.quantized.rounded[node])
                else:
                    if side is self.quantized and repair and node in self.quantized.layers:
                        self.quantized.layers[node] = repair(self._site(node))
                    value = side.run_node(node)
                side.env[node] = value
            values = [side.env[node] for side in sides]
            if observe is not None and isinstance(values[0], torch.Tensor):
                observe(node, values[0], values[1])
            for side in sides:
                for used in side.user_to_last_uses.get(node, ()):
                    del side.env[used]

    def _site(self, node: Node) -> Site:
        side = self.quantized
        args, kwargs = side.fetch_args_kwargs_from_env(node)
        inputs = args[0]
        if node in side.rounded_inputs:
            inputs = round_to_codes(inputs, side.rounded_inputs[node])

        def compute(
            x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
        ) -> torch.Tensor:
            return call(node, (x, *args[1:]), kwargs, weight, bias)

        return Site(node, side.layers[node], self.exact.env[node], inputs, compute)


def _layer(module: GraphModule, node: Node, name: str, parameters: QuantizationParameters) -> Layer:
    weight = attribute(module, node.args[1])
    assert weight is not None
    weight = weight.detach()
    axis = int(node.target in TRANSPOSED)
    scales = torch.from_numpy(np.array(parameters.weight_scales[name], np.float32))
    if name in parameters.biases:
        bias: torch.Tensor | None = torch.from_numpy(np.array(parameters.biases[name], np.float32))
    else:
        bias = attribute(module, arguments(node).get("bias"))
        bias = bias if bias is None else bias.detach()
    bits = parameters.bits[name]
    layer = Layer(name, bits, weight, axis, weight, scales, bias)
    if name in parameters.weight_codes:
        codes = torch.from_numpy(np.array(parameters.weight_codes[name], np.float32))
    else:
        codes = (weight / layer.broadcast(scales)).round().clamp(*code_limits(bits))
    return dataclasses.replace(layer, codes=codes)


def _point_before(node: Node, points: dict[Node, ActivationParameters]) -> Node | None:
    """The point whose codes a layer reads, possibly moved or pooled."""
    source = node.args[0]
    while isinstance(source, Node) and source not in points:
        if source.target not in TRANSPARENT or not source.all_input_nodes:
            return None
        source = source.all_input_nodes[0]
    return source if isinstance(source, Node) else None
