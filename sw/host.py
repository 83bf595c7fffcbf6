# SPDX-License-Identifier: Apache-2.0
"""What the host computes from a network's outputs: softmax, its logarithm, the largest value."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from .graph.ir import HostOperator


def apply(operators: Iterable[HostOperator], outputs: dict[str, NDArray]) -> dict[str, NDArray]:
    """`outputs`, real values by name, (batch, *source_shape), through the operators that read
    them. softmax and log_softmax stay float32; argmax gives int64 without the axis, the first of
    equal values."""
    results = dict(outputs)
    for operator in operators:
        results[operator.input] = _apply(operator, outputs[operator.input])
    return results


def _apply(operator: HostOperator, values: NDArray[np.float32]) -> NDArray:
    if operator.operator == "argmax":
        return np.asarray(values.argmax(operator.axis), dtype=np.int64)
    shifted = values - values.max(operator.axis, keepdims=True)
    powers = np.exp(shifted)
    total = powers.sum(operator.axis, keepdims=True)
    return powers / total if operator.operator == "softmax" else shifted - np.log(total)
