# SPDX-License-Identifier: Apache-2.0
"""What is minimized: cross entropy with the labels, and distillation from the float network."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from ...errors import DataError


def classification(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy; `logits` (images, classes, ...) over whose positions it is averaged.

    Raises `DataError` for labels that are no classes.
    """
    if logits.ndim < 2 or logits.shape[1] < 2:
        raise DataError(
            f"labels need a network with scores of classes, not a result of {tuple(logits.shape)}; "
            "leave y out and distill"
        )
    classes = logits.shape[1]
    if logits.ndim > 2:
        logits = logits.flatten(2).mean(2)
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise DataError(f"labels {low}..{high}: must be 0..{classes - 1}, the network's classes")
    return functional.cross_entropy(logits, labels)


def distillation(output: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(output / T)), mean over the images (Hinton, Vinyals,
    Dean, Distilling the Knowledge in a Neural Network, arXiv 1503.02531); for maps and single
    values, which are no scores, the squared error over the teacher's mean square."""
    if output.ndim == 2 and output.shape[1] > 1:
        divergence = functional.kl_div(
            functional.log_softmax(output / temperature, 1),
            functional.log_softmax(teacher / temperature, 1),
            reduction="batchmean",
            log_target=True,
        )
        return divergence * temperature**2
    return functional.mse_loss(output, teacher) / teacher.square().mean().clamp_min(1e-12)
