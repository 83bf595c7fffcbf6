# SPDX-License-Identifier: Apache-2.0
"""Small networks of other families trained on the JPEG images of `network_cifar`, in minutes.

Far from the best of their kind: what they are for is how quantization methods compare on networks
without residuals and with depthwise layers.
"""

import torch
from network_cifar import cifar
from network_training import Recipe, trained_once
from torch import nn

RECIPE = Recipe(epochs=6, rate=0.1, decay=5e-4, nesterov=True)


def _block(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    kernel = 1 if groups == 1 and stride == 0 else 3
    return [
        nn.Conv2d(inputs, outputs, kernel, max(stride, 1), kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


def vgg() -> nn.Module:
    """Six convolutions, three poolings, two linear layers, batch-norm: 10 million MACs."""
    return nn.Sequential(
        *_block(3, 16), *_block(16, 16), nn.MaxPool2d(2),
        *_block(16, 32), *_block(32, 32), nn.MaxPool2d(2),
        *_block(32, 64), *_block(64, 64), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def mobilenet() -> nn.Module:
    """MobileNetV1's depthwise separable layers, six of them, 3 million MACs."""
    layers = _block(3, 16)
    for inputs, outputs, stride in (
        (16, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 128, 1)
    ):  # fmt: skip
        layers += [*_block(inputs, inputs, stride, inputs), *_block(inputs, outputs, 0)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


NETWORKS = {"vgg": vgg, "mobilenet": mobilenet}


def trained(name: str) -> nn.Module:
    """A network of `NETWORKS`, trained once; for evaluation."""
    torch.manual_seed(0)
    return trained_once(name, NETWORKS[name](), cifar("train"), RECIPE)
