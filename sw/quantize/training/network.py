# SPDX-License-Identifier: Apache-2.0
"""A float program as a module that trains: quantizers at its activations, layers with batch-norm
unfolded, and what it exports, `QuantizationParameters`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from ...errors import DataError
from ...frontend import program as ops
from ...frontend.program import TRANSPOSED, arguments, operator_name, weighted_layers
from ..calibration import ActivationRanges
from ..parameters import QuantizationParameters, check_width
from ..points import activation_points, check_float, folded_module, shared_ranges, single_input
from ..write import attribute
from .activation_quantizers import ActivationQuantizer
from .layer import BatchNorm, TrainedLayer
from .methods import Method

ACTIVATION_WIDTHS = range(2, 9)
"""Bits an activation may have; below 8 it is a simulation, which the core does not run."""


class TrainingNetwork(nn.Module):
    """(images, *input shape) to the network's output: logits where the program ends in softmax."""

    def __init__(
        self,
        module: GraphModule,
        layers: Mapping[str, TrainedLayer],
        quantizers: Mapping[str, ActivationQuantizer],
    ) -> None:
        super().__init__()
        self.module: nn.Module = module
        self.layers = dict(layers)
        """By layer name. Plain dictionaries: the module has registered what they hold."""
        self.quantizers = dict(quantizers)
        """By the name of the activation's node in the folded program."""

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)

    def freeze_statistics(self) -> None:
        """From now on batch-norm uses its running statistics."""
        for layer in self.layers.values():
            layer.frozen = True

    @torch.no_grad()
    def estimate_statistics(self, batches: Iterable[Tensor]) -> None:
        """Batch-norm's statistics, anew for the weights as they are: means over `batches`. Running
        averages lag behind weights whose codes jump."""
        norms = [layer.norm for layer in self.layers.values() if layer.norm is not None]
        momenta = [norm.momentum for norm in norms]
        for i, x in enumerate(batches if norms else ()):
            for norm in norms:
                norm.momentum = 1 / (i + 1)
            self(x)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum

    def constrain(self) -> None:
        """After each step of the optimizer."""
        for layer in self.layers.values():
            layer.constrain()
        for quantizer in self.quantizers.values():
            quantizer.constrain()

    def anneal(self, progress: float) -> None:
        """Before each step; `progress` of the training, 0 to 1."""
        for layer in self.layers.values():
            layer.quantizer.anneal(progress)
        for quantizer in self.quantizers.values():
            quantizer.anneal(progress)

    def quantization(self) -> QuantizationParameters:
        """Exactly the integers that the network computes with in evaluation."""
        bits, scales, codes, biases = {}, {}, {}, {}
        for name, layer in self.layers.items():
            found, scale, bias = layer.integers()
            bits[name] = layer.quantizer.bits
            codes[name] = found.transpose(0, layer.axis).numpy().astype(np.int8)
            scales[name] = scale.numpy().astype(np.float32)
            if bias is not None:
                biases[name] = bias.numpy().astype(np.float32)
        points = {name: quantizer.quantization() for name, quantizer in self.quantizers.items()}
        return QuantizationParameters(points, bits, scales, codes, biases)


def training_network(
    program: ExportedProgram,
    bits: Mapping[str, int],
    method: Method,
    ranges: ActivationRanges,
    activation_bits: int = 8,
    narrow_ranges: ActivationRanges | None = None,
) -> TrainingNetwork:
    """A new one. `bits`: of every layer's weights. `ranges`: of the activations, from `calibrate`;
    `narrow_ranges`, if given, of those that have fewer than 8 bits.

    With fewer than 8 `activation_bits` the network's input and its result keep 8, as is usual.
    Raises `FrontendError` for programs that cannot be quantized, `DataError` for widths that are
    not possible and for layers that share weights.
    """
    check_float(program)
    for name, width in bits.items():
        check_width(name, width)
    if activation_bits not in ACTIVATION_WIDTHS:
        raise DataError(f"activations must have 2 to 8 bits, not {activation_bits!r}")
    folded = folded_module(program)
    points = activation_points(folded)
    groups = shared_ranges(folded)
    last = _result(folded)
    _without_host_operators(folded)
    _without_assertions(folded)
    names = weighted_layers(folded.graph.nodes)
    norms = _unfolded(program)
    weights = [str(node.args[1].target) for node in names if isinstance(node.args[1], Node)]
    for name, weight in zip(names.values(), weights, strict=False):
        if weights.count(weight) > 1:
            raise DataError(f"layer {name!r} shares its weights with another: not trained so far")
    layers: dict[str, TrainedLayer] = {}
    quantizers: dict[str, ActivationQuantizer] = {}
    for i, (node, name) in enumerate(names.items()):
        layers[name] = _layer(folded, node, name, norms.get(node.name), bits[name], method)
        folded.add_submodule(f"_trained.layer{i}", layers[name])
        _call(node, f"_trained.layer{i}", (node.args[0],))
    for i, node in enumerate(points):
        partner = next((n for g in groups if node.name in g for n in g if n in quantizers), None)
        if partner is None:
            given = node.op == "placeholder"
            kind = ActivationQuantizer if given else method.activations
            width = 8 if given or node is last else activation_bits
            known = ranges if width == 8 or narrow_ranges is None else narrow_ranges
            quantizers[node.name] = kind(*known.ranges[node.name], width, _features(node))
        else:
            quantizers[node.name] = quantizers[partner]
        folded.add_submodule(f"_trained.point{i}", quantizers[node.name])
        _quantize(folded, node, f"_trained.point{i}", quantizers[node.name])
    _functional(folded)
    return TrainingNetwork(_finished(folded), layers, quantizers)


def _finished(module: GraphModule) -> GraphModule:
    """With one plain input and result, and what only layers and quantizers train."""
    output = next(n for n in module.graph.nodes if n.op == "output")
    output.args = (output.all_input_nodes[0],)
    module.graph.set_codegen(torch.fx.graph.CodeGen())
    module.graph.eliminate_dead_code()
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name.startswith("_trained."))
    return GraphModule(module, module.graph)


def float_network(program: ExportedProgram) -> nn.Module:
    """The float program, batch-norm folded, with logits for a result: the teacher."""
    folded = folded_module(program)
    _without_host_operators(folded)
    _without_assertions(folded)
    return _finished(folded)


def takes_any_batch(network: nn.Module, program: ExportedProgram) -> bool:
    """Whether batches of any size may be given to a network of a program exported for a fixed one:
    tried with two that differ."""
    value = single_input(program).meta["val"]
    if not isinstance(value.shape[0], int):
        return True
    size = int(value.shape[0])
    x = torch.randn(2 * size, *value.shape[1:], generator=torch.Generator().manual_seed(0))
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            whole, parts = network(x), torch.cat([network(x[:size]), network(x[size:])])
        return whole.shape == parts.shape and torch.allclose(whole, parts, rtol=1e-3, atol=1e-3)
    except (RuntimeError, ValueError, TypeError):  # shapes that the program holds
        return False
    finally:
        network.train(training)


def _features(node: Node) -> int:
    return max(1, int(np.prod(ops.value_shape(node))))


def _result(module: GraphModule) -> Node:
    """What the network returns, before softmax or argmax on the host."""
    output = next(n for n in module.graph.nodes if n.op == "output")
    node = output.all_input_nodes[0]
    return node.all_input_nodes[0] if node.target in ops.HOST else node


def _without_host_operators(module: GraphModule) -> None:
    for node in list(module.graph.nodes):
        if node.op == "call_function" and node.target in ops.HOST:
            node.replace_all_uses_with(node.all_input_nodes[0])
            module.graph.erase_node(node)


def _without_assertions(module: GraphModule) -> None:
    for node in reversed(list(module.graph.nodes)):
        guard = node.op == "call_module" and node.target == "_guards_fn"
        if guard or (node.op == "call_function" and node.target in ops.ASSERTIONS):
            module.graph.erase_node(node)


def _unfolded(program: ExportedProgram) -> dict[str, tuple[Tensor, Tensor | None, BatchNorm]]:
    """Weights, bias and batch-norm of each layer into which one is folded, by its node's name."""
    module = program.module(check_guards=False)
    found: dict[str, tuple[Tensor, Tensor | None, BatchNorm]] = {}
    for node in module.graph.nodes:
        if node.target != ops.BATCH_NORM or node.op != "call_function":
            continue
        source = node.args[0]
        if source.target not in ops.CONVOLUTIONS or len(source.users) != 1:
            continue
        values, layer = arguments(node), arguments(source)
        parts = {k: attribute(module, values[k]) for k in ("running_mean", "running_var")}
        mean, variance = parts["running_mean"], parts["running_var"]
        weight = attribute(module, layer["weight"])
        bias = None if layer["bias"] is None else attribute(module, layer["bias"])
        if mean is None or variance is None or weight is None:
            continue
        gamma, beta = (
            torch.full_like(mean, default) if values[k] is None else attribute(module, values[k])
            for k, default in (("weight", 1.0), ("bias", 0.0))
        )
        if gamma is None or beta is None:
            continue
        norm = BatchNorm(
            gamma.detach(), beta.detach(), mean, variance,
            float(values["eps"]), float(values["momentum"]),
        )  # fmt: skip
        found[source.name] = weight, bias, norm
    return found


def _layer(
    module: GraphModule,
    node: Node,
    name: str,
    unfolded: tuple[Tensor, Tensor | None, BatchNorm] | None,
    bits: int,
    method: Method,
) -> TrainedLayer:
    still_there = any(
        user.op == "call_function" and user.target == ops.BATCH_NORM for user in node.users
    )
    norm = None
    if unfolded is not None and not still_there:
        weight, bias, norm = unfolded
    else:
        values = arguments(node)
        found = attribute(module, values["weight"])
        bias = None if values.get("bias") is None else attribute(module, values["bias"])
        if found is None or (bias is None and values.get("bias") is not None):
            raise DataError(f"layer {name!r}: its weights are no constants of the program")
        weight = found
    rest, kwargs, target = node.args[3:], dict(node.kwargs), node.target
    kwargs.pop("bias", None)

    def operator(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return target(x, weight, bias, *rest, **kwargs)  # type: ignore[operator]

    normalized = norm is not None
    return TrainedLayer(
        weight, bias, norm, operator, int(node.target in TRANSPOSED),
        lambda w: method.weights(w, bits, normalized),
    )  # fmt: skip


def _call(node: Node, target: str, args: tuple[object, ...]) -> None:
    """Turns a node into the call of a module, in place, so that its name stays."""
    node.op, node.target, node.args, node.kwargs = "call_module", target, args, {}  # type: ignore[assignment]


def _quantize(module: GraphModule, node: Node, target: str, quantizer: ActivationQuantizer) -> None:
    """Quantizes a node's result for all its users. A ReLU is part of codes from 0 on, whose
    gradient is 0 below 0 too."""
    relu = node.op == "call_function" and node.target in ops.RELU
    if relu and not quantizer.signed and _unchanged(node):
        _call(node, target, (node.args[0],))
        return
    with module.graph.inserting_after(node):
        call = module.graph.call_module(target, (node,))
    node.replace_all_uses_with(call, delete_user_cb=lambda user: user is not call)


def _unchanged(node: Node) -> bool:
    """Whether nobody else reads what an in-place operator writes."""
    return not operator_name(node).endswith("_") or len(node.all_input_nodes[0].users) == 1


def _functional(module: GraphModule) -> None:
    """In-place operators as ordinary ones, whose operand's later readers read their result."""
    order = {node: i for i, node in enumerate(module.graph.nodes)}
    for node in list(module.graph.nodes):
        if node.op != "call_function" or not operator_name(node).endswith("_"):
            continue
        packet, _, overload = str(node.target).removeprefix("aten.").rpartition(".")
        plain = getattr(torch.ops.aten, packet.removesuffix("_"), None)
        if plain is None:
            continue
        node.target = getattr(plain, overload)
        changed = node.all_input_nodes[0]
        changed.replace_all_uses_with(
            node, delete_user_cb=lambda user, i=order[node]: order[user] > i
        )
