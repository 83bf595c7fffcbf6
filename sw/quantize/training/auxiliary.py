# SPDX-License-Identifier: Apache-2.0
"""A full-precision auxiliary module beside the quantized network, dropped after the training."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .network import TrainingNetwork


class AuxiliaryModule(nn.Module):
    """Zhuang et al., Training Quantized Neural Networks with a Full-precision Auxiliary Module,
    CVPR 2020: low-bit feature maps go through adaptors of full precision (1x1 convolution,
    batch-norm, ReLU), are summed from the highest resolution to the lowest, and classified; the
    joint loss gives layers far from the output gradients that no quantizer has touched.

    Here the feature maps are the network's last at each resolution. Adaptors have the channels of
    the lowest one; between resolutions the sum is averaged down.
    """

    def __init__(self, network: TrainingNetwork, example: Tensor) -> None:
        super().__init__()
        shapes, result = _feature_maps(network, example)
        last = {shape[2:]: name for name, shape in shapes.items()}
        self.points = tuple(last.values())
        for name in self.points:
            network.quantizers[name].keep = True
        channels = [shapes[name][1] for name in self.points]
        width = channels[-1] if channels else 0
        self.adaptors = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
            for c in channels
        )
        self.classifier = nn.Linear(width, result) if channels else None
        self.network = [network]  # not its parent

    def forward(self) -> Tensor | None:
        """(images, classes), from the network's last forward pass; None where it has no feature
        maps or no vector of scores."""
        if self.classifier is None:
            return None
        total: Tensor | None = None
        for name, adaptor in zip(self.points, self.adaptors, strict=True):
            kept = self.network[0].quantizers[name].kept
            if kept is None:
                return None
            adapted = adaptor(kept)
            if total is not None:
                adapted = adapted + functional.adaptive_avg_pool2d(total, adapted.shape[2:])
            total = adapted
        if total is None:
            return None
        return self.classifier(total.mean((2, 3)))


def _feature_maps(network: TrainingNetwork, example: Tensor) -> tuple[dict[str, torch.Size], int]:
    """Shapes of the quantized feature maps after the input, and the number of classes."""
    training = network.training
    network.eval()
    for quantizer in network.quantizers.values():
        quantizer.keep = True
    with torch.no_grad():
        result = network(example)
    shapes = {}
    for name, quantizer in network.quantizers.items():
        kept = quantizer.kept
        if kept is not None and kept.ndim == 4 and kept.shape[2:].numel() > 1:
            shapes[name] = kept.shape
        quantizer.keep, quantizer.kept = False, None
    network.train(training)
    shapes.pop(next(iter(network.quantizers)), None)  # the images
    if result.ndim != 2:
        shapes = {}
    return shapes, int(result.shape[-1])
