# SPDX-License-Identifier: Apache-2.0
"""PyTorch's elementwise operators: clamps, tables, arithmetic with constants, sums.

They act on each value wherever it lies, so movement before them stays pending.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.fx import Node

from . import program as ops
from .lowering import Function, Pending, Quantization, Real, Unsupported, as_function
from .movement import Places, straight
from .program import value_shape
from .torch_values import Importer, constant, image_shape

aten = torch.ops.aten


def operand(importer: Importer, node: Node, name: str, purpose: str = "input") -> Real | Pending:
    """An activation whose movement stays pending, unless it brought constants: these are values
    like others and become part of a tensor first."""
    value = importer.activation(node, purpose)
    if node in importer.moved and importer.moved[node].filled:
        importer.check_fill(node, purpose)
        value = importer.flowing(node, purpose)
    return unpadded(importer, value, name)


def unpadded(importer: Importer, value: Real | Pending, name: str) -> Real | Pending:
    if isinstance(value, Real) and any(value.padding):
        return importer.builder.pad(value.tensor, f"{name}_pad", value.padding)
    return value


def moved_alike(importer: Importer, node: Node, source: Node) -> None:
    """The result's values lie where the operand's do."""
    if source in importer.moved and not importer.moved[source].filled:
        importer.moved[node] = importer.moved[source]


def clamp(importer: Importer, node: Node, values: dict[str, Any]) -> Pending:
    source, name = node.all_input_nodes[0], importer.node_name(node)
    value = operand(importer, source, name)
    moved_alike(importer, node, source)
    if isinstance(value, Real):
        value = importer.builder.maximum(value.tensor, name)
    if node.target in ops.LIMITS:
        low, high = (values.get(key) if key else None for key in ops.LIMITS[node.target])
        low = -np.inf if low is None else float(low)
        high = np.inf if high is None else float(high)
        return value.clamp(low, high)
    return value.clamp(0.0, 6.0 if node.target in ops.RELU6 else np.inf)


def _on_arrays(importer: Importer, node: Node, source: Node) -> Function:
    """The node's operator as a function of `source`, as PyTorch computes it."""

    def function(x: np.ndarray) -> np.ndarray:
        tensor = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32).copy())

        def known(n: Node) -> Any:
            return tensor if n is source else importer.values[n]

        args = torch.fx.node.map_arg(node.args, known)
        kwargs = torch.fx.node.map_arg(node.kwargs, known)
        with torch.no_grad():
            return node.target(*args, **kwargs).numpy()  # type: ignore[operator]

    return function


def table(importer: Importer, node: Node, values: dict[str, Any]) -> Pending:
    """A function of one value, or of several that come from the same one."""
    activations = [n for n in node.all_input_nodes if constant(importer, n) is None]
    for other in set(node.all_input_nodes) - set(activations):
        if importer.values[other].numel() != 1:
            raise Unsupported("a parameter for each channel: only one for all")
    if len(activations) == 2:
        return _joined(importer, node, activations[0], activations[1])
    (source,) = activations
    name = importer.node_name(node)
    return _composed(importer, node, source, name, _on_arrays(importer, node, source))


def _composed(
    importer: Importer, node: Node, source: Node, name: str, function: Function
) -> Pending:
    value = operand(importer, source, name)
    moved_alike(importer, node, source)
    known = as_function(value)
    if known is None:
        known = importer.builder.exact(value, "input").tensor, lambda x: x
    tensor, inner = known
    label = ops.operator_name(node)
    return importer.builder.table(tensor, name, lambda x: function(inner(x)), label)


def _joined(importer: Importer, node: Node, a: Node, b: Node) -> Pending:
    """Two functions of the same values, joined: x * sigmoid(x)."""
    name = importer.node_name(node)
    first, second = (as_function(operand(importer, n, name, "operand")) for n in (a, b))
    if first is None or second is None or first[0] != second[0]:
        raise Unsupported(ops.PRODUCT if "mul" in str(node.target) else "two activations")
    moved = importer.moved.keys() & {a, b}
    if moved and not importer.places(a).same(importer.places(b)):
        raise Unsupported("two activations whose values lie in different places")
    moved_alike(importer, node, a)
    tensor, left, right = first[0], first[1], second[1]

    def function(x: np.ndarray) -> np.ndarray:
        tensors = {
            n: torch.from_numpy(np.array(f(x), np.float32)) for n, f in ((a, left), (b, right))
        }
        args = torch.fx.node.map_arg(node.args, lambda n: tensors[n])
        with torch.no_grad():
            return node.target(*args, **node.kwargs).numpy()  # type: ignore[operator]

    return importer.builder.table(tensor, name, function, ops.operator_name(node))


def _affine(
    importer: Importer, node: Node, source: Node, scale: torch.Tensor, shift: torch.Tensor
) -> Pending:
    """source * scale + shift, each broadcast to the source's shape."""
    name = importer.node_name(node)
    value = operand(importer, source, name)
    if scale.numel() == shift.numel() == 1:
        factor, offset = np.float64(scale.item()), np.float64(shift.item())
        moved_alike(importer, node, source)
        if isinstance(value, Pending) and as_function(value) is not None:
            function = _on_arrays(importer, node, source)
            if value.function is not None:
                return _composed(importer, node, source, name, function)
            try:
                value = importer.builder.exact(value, "input")
            except Unsupported:  # clamped at a value that is no code
                return _composed(importer, node, source, name, function)
        factors, offsets = np.array([factor]), np.array([offset])
    else:
        places = importer.places(source)
        if not places.permuted:
            value = unpadded(importer, importer.flowing(source), name)
            places = straight(image_shape(source)).reshaped(value_shape(source))
        else:
            moved_alike(importer, node, source)
        factors, offsets = (_by_channel(c, places, importer.batch) for c in (scale, shift))
    tensor = value.tensor if isinstance(value, Real) else value
    return importer.builder.scale_shift(tensor, name, factors, offsets)


def _by_channel(values: torch.Tensor, places: Places, batch: int) -> np.ndarray:
    """A constant as one value a channel of the tensor that the places are in."""
    shape = places.indices.shape
    try:
        wide = torch.broadcast_to(values.to(torch.float64), (batch, *shape))
    except RuntimeError:
        raise Unsupported(f"a constant of shape {tuple(values.shape)} for {shape}") from None
    array = np.zeros(places.indices.size)
    array[places.indices.reshape(-1)] = wide[0].numpy().reshape(-1)
    pixels = array.reshape(-1, places.shape[2])
    if (wide != wide[:1]).any() or (pixels != pixels[:1]).any():
        raise Unsupported("a constant that differs from pixel to pixel")
    return pixels[0]


def arithmetic(importer: Importer, node: Node, values: dict[str, Any]) -> Pending:
    kind = ops.operator_name(node).rstrip("_")
    a, b = values["self"], values["other"]
    left, right = constant(importer, a), constant(importer, b)
    alpha = float(values.get("alpha", 1))
    if kind == "rsub":
        a, b, left, right, kind = b, a, right, left, "sub"
    one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    if left is None and right is None:
        return _two(importer, node, kind, a, b, alpha)
    if right is not None:
        right = right.to(torch.float64)
        if kind == "div":
            return _affine(importer, node, a, one / right, zero)
        if kind == "mul":
            return _affine(importer, node, a, right, zero)
        return _affine(importer, node, a, one, right * (alpha if kind == "add" else -alpha))
    assert left is not None
    left = left.to(torch.float64)
    if kind == "div":
        return table(importer, node, values)
    if kind == "mul":
        return _affine(importer, node, b, left, zero)
    return _affine(importer, node, b, one * (alpha if kind == "add" else -alpha), left)


def _two(importer: Importer, node: Node, kind: str, a: Node, b: Node, alpha: float) -> Pending:
    if kind in ("mul", "div"):
        return _joined(importer, node, a, b)
    name = importer.node_name(node)
    if value_shape(a) != value_shape(b):
        raise Unsupported("operands differ in shape (broadcasting)")
    values = [operand(importer, n, name, "operand") for n in (a, b)]
    if not all(isinstance(value, Real) for value in values):
        known = [as_function(value) for value in values]
        functions = [k[0] if k is not None else None for k in known]
        computed = any(isinstance(v, Pending) and v.function is not None for v in values)
        if computed and functions[0] is not None and functions[0] == functions[1]:
            return _joined(importer, node, a, b)
    first, second = (importer.moved.get(n) for n in (a, b))
    if first is second or (
        first is not None and second is not None and first.same(second) and not first.filled
    ):
        moved_alike(importer, node, a)
        tensors = [importer.exact(n, "operand").tensor for n in (a, b)]
    else:
        tensors = [importer.real(n, "operand").tensor for n in (a, b)]
    if alpha != 1:
        raise Unsupported("a sum with a factor (alpha)")
    if kind == "sub":
        tensors[1] = _negated(importer, tensors[1], f"{name}_negative")
    return importer.builder.addition(tensors[0], tensors[1], name)


def _negated(importer: Importer, tensor: str, name: str) -> str:
    """The same values with the opposite sign, exactly: code 255 - q."""
    own = importer.builder.quantizations[tensor]
    turned = Quantization(
        own.scale, 255 - own.zero_point, 255 - own.high, 255 - own.low, own.source_dtype
    )
    return importer.builder.scale_shift(tensor, name, -1.0, 0.0).finish(turned)


def negation(importer: Importer, node: Node, values: dict[str, Any]) -> Pending:
    zero = torch.zeros((), dtype=torch.float64)
    return _affine(importer, node, node.all_input_nodes[0], zero - 1, zero)


def batch_norm(importer: Importer, node: Node, values: dict[str, Any]) -> Pending:
    """Batch normalization that follows no layer it could be part of."""
    if values["training"]:
        raise Unsupported("batch-norm in training mode: export the model after .eval()")
    parts = {}
    for key in ("weight", "bias", "running_mean", "running_var"):
        value = None if values[key] is None else constant(importer, values[key])
        if value is None and not (key in ("weight", "bias") and values[key] is None):
            raise Unsupported(f"its {key} is no constant")
        parts[key] = None if value is None else value.to(torch.float64)
    variance, mean = parts["running_var"], parts["running_mean"]
    assert variance is not None and mean is not None
    scale = 1 / torch.sqrt(variance + float(values["eps"]))
    if parts["weight"] is not None:
        scale = scale * parts["weight"]
    shift = -mean * scale
    if parts["bias"] is not None:
        shift = shift + parts["bias"]
    source = values["input"]
    rank = importer.places(source).indices.ndim
    shape = (-1, *(1,) * (rank - 1))
    return _affine(importer, node, source, scale.reshape(shape), shift.reshape(shape))
