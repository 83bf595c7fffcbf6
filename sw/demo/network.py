# SPDX-License-Identifier: Apache-2.0
"""A small network for 8x8 digits that has one of everything the core runs."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _convolution(inputs: int, outputs: int, kernel: int, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


class DigitsNetwork(nn.Module):
    """(images, 1, 8, 8) in 0..1 to (images, 10) logits, about 13,000 weights.

    A stem, a residual block, a depthwise-separable convolution, max pooling, a dense convolution,
    global average pooling and a linear layer. All its weights fit preset `n4` at 8 bits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = _convolution(1, 16, 3)
        self.block1 = _convolution(16, 16, 3)
        self.block2 = _convolution(16, 16, 3)
        self.depthwise = _convolution(16, 16, 3, groups=16)
        self.pointwise = _convolution(16, 32, 1)
        self.pool = nn.MaxPool2d(2)
        self.features = _convolution(32, 32, 3)
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.block2(torch.relu(self.block1(x))))
        x = torch.relu(self.depthwise(x))
        x = self.pool(torch.relu(self.pointwise(x)))
        x = self.mean(torch.relu(self.features(x)))
        return self.classifier(torch.flatten(x, 1))
