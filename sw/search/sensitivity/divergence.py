# SPDX-License-Identifier: Apache-2.0
"""What an output loses against a reference, image by image, so that means can be taken in parts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

Outputs = NDArray[np.float32]
"""(images, ...), real values."""
PerImage = Callable[[Outputs, Outputs], NDArray[np.float64]]
"""Of reference and output, both (images, ...): what each image loses, (images,)."""


def divergence(reference: Outputs, output: Outputs) -> float:
    """Mean over the images of what `output` loses against `reference`, both (images, ...).

    For vectors, (images, classes), the Kullback-Leibler divergence of their softmax in nats; for
    maps and single values the squared error over the reference's mean square.
    """
    if is_scores(reference):
        return float(kullback_leibler(reference, output).mean())
    return float(squared_error(reference, output).mean()) / mean_square(reference)


def is_scores(reference: Outputs) -> bool:
    """Whether the outputs are vectors, one value a class."""
    return reference.ndim == 2 and reference.shape[1] > 1


def kullback_leibler(reference: Outputs, output: Outputs) -> NDArray[np.float64]:
    """sum p (log p - log q) in nats, p and q the softmax of (images, classes)."""
    expected = log_softmax(reference.astype(np.float64), axis=1)
    actual = log_softmax(output.astype(np.float64), axis=1)
    return (np.exp(expected) * (expected - actual)).sum(axis=1)


def squared_error(reference: Outputs, output: Outputs) -> NDArray[np.float64]:
    """Mean of the squared differences of each image's values."""
    difference = reference.astype(np.float64) - output.astype(np.float64)
    return (difference**2).reshape(len(difference), -1).mean(axis=1)


def mean_square(reference: Outputs) -> float:
    """Mean square of all values, never 0: what squared errors are divided by."""
    tiny = float(np.finfo(np.float64).tiny)
    return max(float((reference.astype(np.float64) ** 2).mean()), tiny)
