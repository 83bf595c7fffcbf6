# SPDX-License-Identifier: Apache-2.0
"""ONNX operators that are a real function of one value, as ONNX defines them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .lowering import Unsupported

Reals = NDArray[np.float64]
Apply = Callable[[Reals], Reals]
Make = Callable[[Mapping[str, Any], int], Apply]
"""(attributes, operator set) -> function on arrays of float64."""


def _plain(apply: Apply) -> Make:
    return lambda attributes, opset: apply


def _number(attributes: Mapping[str, Any], key: str, default: float) -> float:
    """An attribute, float32 as the file holds it."""
    value = float(np.float32(attributes.get(key, default)))
    if not math.isfinite(value):
        raise Unsupported(f"{key} {value}")
    return value


def sigmoid(x: Reals) -> Reals:
    return 1 / (1 + np.exp(-x))


def softplus(x: Reals) -> Reals:
    return np.logaddexp(0, x)


_erf = np.vectorize(math.erf, otypes=[np.float64])


def _leaky(attributes: Mapping[str, Any], opset: int) -> Apply:
    alpha = _number(attributes, "alpha", 0.01)
    return lambda x: np.where(x < 0, alpha * x, x)


def _hard_sigmoid(attributes: Mapping[str, Any], opset: int) -> Apply:
    alpha, beta = _number(attributes, "alpha", 0.2), _number(attributes, "beta", 0.5)
    return lambda x: np.clip(alpha * x + beta, 0, 1)


def _elu(attributes: Mapping[str, Any], opset: int) -> Apply:
    alpha = _number(attributes, "alpha", 1.0)
    return lambda x: np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x)


def _selu(attributes: Mapping[str, Any], opset: int) -> Apply:
    alpha = _number(attributes, "alpha", 1.67326319217681884765625)
    gamma = _number(attributes, "gamma", 1.05070102214813232421875)
    return lambda x: gamma * np.where(x <= 0, alpha * np.expm1(np.minimum(x, 0)), x)


def _celu(attributes: Mapping[str, Any], opset: int) -> Apply:
    alpha = _number(attributes, "alpha", 1.0)
    if alpha == 0:
        raise Unsupported("alpha 0")
    return lambda x: np.maximum(x, 0) + np.minimum(0, alpha * np.expm1(np.minimum(x, 0) / alpha))


def _gelu(attributes: Mapping[str, Any], opset: int) -> Apply:
    kind = attributes.get("approximate", "none")
    if kind == "tanh":
        return lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    if kind != "none":
        raise Unsupported(f"approximation {kind!r}")
    return lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2)))


def _swish(attributes: Mapping[str, Any], opset: int) -> Apply:
    alpha = _number(attributes, "alpha", 1.0)
    return lambda x: x * sigmoid(alpha * x)


def _quick_gelu(attributes: Mapping[str, Any], opset: int) -> Apply:
    alpha = _number(attributes, "alpha", 1.702)
    return lambda x: x * sigmoid(alpha * x)


def _thresholded(attributes: Mapping[str, Any], opset: int) -> Apply:
    alpha = _number(attributes, "alpha", 1.0)
    return lambda x: np.where(x > alpha, x, 0)


def _shrink(attributes: Mapping[str, Any], opset: int) -> Apply:
    bias, width = _number(attributes, "bias", 0.0), _number(attributes, "lambd", 0.5)
    return lambda x: np.where(x < -width, x + bias, np.where(x > width, x - bias, 0))


FUNCTIONS: dict[str, Make] = {
    "LeakyRelu": _leaky,
    "Sigmoid": _plain(sigmoid),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _plain(lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "Tanh": _plain(np.tanh),
    "Elu": _elu,
    "Selu": _selu,
    "Celu": _celu,
    "Softplus": _plain(softplus),
    "Softsign": _plain(lambda x: x / (1 + np.abs(x))),
    "Erf": _plain(_erf),
    "Gelu": _gelu,
    "QuickGelu": _quick_gelu,
    "Swish": _swish,
    "Mish": _plain(lambda x: x * np.tanh(softplus(x))),
    "ThresholdedRelu": _thresholded,
    "Shrink": _shrink,
    "Abs": _plain(np.abs),
    "Exp": _plain(np.exp),
    "Log": _plain(np.log),
    "Sqrt": _plain(np.sqrt),
    "Reciprocal": _plain(lambda x: 1 / x),
    "Floor": _plain(np.floor),
    "Ceil": _plain(np.ceil),
    "Round": _plain(np.rint),
    "Sign": _plain(np.sign),
    "Sin": _plain(np.sin),
    "Cos": _plain(np.cos),
    "Tan": _plain(np.tan),
    "Sinh": _plain(np.sinh),
    "Cosh": _plain(np.cosh),
    "Asin": _plain(np.arcsin),
    "Acos": _plain(np.arccos),
    "Atan": _plain(np.arctan),
    "Asinh": _plain(np.arcsinh),
    "Acosh": _plain(np.arccosh),
    "Atanh": _plain(np.arctanh),
}
