# SPDX-License-Identifier: Apache-2.0
"""Sensitivities seen at the network's output, one layer narrowed at a time, by the golden model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from ...errors import SearchError
from ..problem import Losses
from .context import Context
from .divergence import is_scores, kullback_leibler, mean_square, squared_error

Outputs = NDArray[np.float32]
OfImages = Callable[[slice, Outputs], NDArray[np.float64]]
"""Of images and what a network makes of them, (images, ...): what each loses, (images,)."""


def output_divergence(context: Context) -> Losses:
    """Kullback-Leibler divergence, in nats, of the softmax of the network's output from the float
    network's; for outputs that are no vectors their squared error as in `output_error`."""
    return of_one_layer_narrowed(context, divergence_of(context))


def output_error(context: Context) -> Losses:
    """Squared error of the network's output from the float network's, over the mean square of
    the latter: the inverse of the output's SQNR (van Baalen et al., arXiv 2302.05397, Eq. 3), as a
    ratio, which adds up where decibels do not."""
    return of_one_layer_narrowed(context, error_of(context))


def accuracy_drop(context: Context) -> Losses:
    """Cross-entropy, in nats, of the labels under the network's output.

    ALPS (arXiv 2301.13330) narrows one layer, fine-tunes for an epoch, and takes what accuracy or
    training loss are worse by. Here nothing is fine-tuned, and it is the loss: steps of one image
    in accuracy are too coarse on a few hundred.
    """
    return of_one_layer_narrowed(context, cross_entropy_of(context))


def divergence_of(context: Context) -> OfImages:
    if not is_scores(context.reference):
        return error_of(context)
    return lambda images, found: kullback_leibler(context.reference[images], found)


def error_of(context: Context) -> OfImages:
    power = mean_square(context.reference)
    return lambda images, found: squared_error(context.reference[images], found) / power


def cross_entropy_of(context: Context) -> OfImages:
    """Raises `SearchError` without labels, or where they are not classes of the output."""
    labels = context.labels
    if labels is None:
        raise SearchError("cross-entropy needs labels: give data with y")
    if not is_scores(context.reference):
        raise SearchError("cross-entropy needs an output of one value a class")
    classes = context.reference.shape[1]
    if labels.min() < 0 or labels.max() >= classes:
        wrong = labels.max() if labels.max() >= classes else labels.min()
        raise SearchError(f"label {wrong}: the network has classes 0 to {classes - 1}")

    def loss(images: slice, found: Outputs) -> NDArray[np.float64]:
        scores = found.astype(np.float64)
        return logsumexp(scores, axis=1) - scores[np.arange(len(scores)), labels[images]]

    return loss


def of_one_layer_narrowed(context: Context, loss: OfImages) -> Losses:
    """The mean `loss` of the network with one layer at one narrower width, all others at the
    widest, less that of the widest network."""
    means = _means(context, loss, len(context.single), context.single_outputs())
    losses: Losses = {layer: {} for layer in context.layers}
    for variant, mean in zip(context.single[1:], means[1:], strict=True):
        for layer, width in variant.items():
            losses[layer][width] = mean - means[0]
    return losses


def mean_losses(
    context: Context, loss: OfImages, variants: Sequence[Mapping[str, int]]
) -> list[float]:
    """The mean `loss` over the images of each mix of the context's graphs."""
    return _means(context, loss, len(variants), context.outputs_of(variants))


def _means(
    context: Context, loss: OfImages, count: int, found: Iterable[tuple[slice, int, Outputs]]
) -> list[float]:
    totals = np.zeros(count)
    for images, index, values in found:
        totals[index] += loss(images, values).sum()
    return [float(total) for total in totals / len(context.reference)]
