# SPDX-License-Identifier: Apache-2.0
"""The networks by name, whole and small, with weights and inputs that behave like trained ones.

Weights are drawn from a seed; batch-norms then get the statistics that the network really has, so
that activations neither die nor grow, and scales and shifts as training leaves them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from network_classifiers import (
    BasicBlock,
    Bottleneck,
    googlenet,
    mobilenet_v1,
    mobilenet_v2,
    resnet_cifar,
    resnet_imagenet,
    vgg,
)
from network_others import UNet, YoloTiny, autoencoder, ds_cnn, keywords_1d
from numpy.typing import NDArray
from torch import nn


@dataclass(frozen=True)
class Network:
    """How to build one."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    """Of one input, without the batch dimension."""


WHOLE = {
    "resnet8": Network(lambda: resnet_cifar(1, shortcut="conv"), (3, 32, 32)),
    "resnet20": Network(lambda: resnet_cifar(3), (3, 32, 32)),
    "ds-cnn": Network(ds_cnn, (1, 49, 10)),
    "autoencoder": Network(autoencoder, (640,)),
    "keywords-1d": Network(keywords_1d, (40, 101)),
    "mobilenet-v1-0.25": Network(mobilenet_v1, (3, 96, 96)),
    "mobilenet-v2-96": Network(mobilenet_v2, (3, 96, 96)),
    "mobilenet-v2": Network(mobilenet_v2, (3, 224, 224)),
    "resnet18": Network(lambda: resnet_imagenet(BasicBlock, (2, 2, 2, 2)), (3, 224, 224)),
    "resnet50": Network(lambda: resnet_imagenet(Bottleneck, (3, 4, 6, 3)), (3, 224, 224)),
    "googlenet": Network(googlenet, (3, 224, 224)),
    "yolo-tiny": Network(YoloTiny, (3, 416, 416)),
    "unet": Network(UNet, (3, 128, 128)),
    "vgg16": Network(vgg, (3, 224, 224)),
}
"""Smallest first."""

SMALL = {
    "resnet8": Network(lambda: resnet_cifar(1, 0.5, 10, "conv"), (3, 16, 16)),
    "resnet20": Network(lambda: resnet_cifar(3, 0.25), (3, 12, 12)),
    "ds-cnn": Network(lambda: ds_cnn(20, 12, 2), (1, 25, 10)),
    "autoencoder": Network(lambda: autoencoder(300, 52, 8, 2), (300,)),
    "keywords-1d": Network(lambda: keywords_1d(12, 32), (12, 90)),
    "mobilenet-v1": Network(lambda: mobilenet_v1(0.07, 3), (3, 48, 48)),
    "mobilenet-v2": Network(
        lambda: mobilenet_v2(0.25, 10, ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 2, 2))),
        (3, 24, 24),
    ),
    "resnet18": Network(lambda: resnet_imagenet(BasicBlock, (1, 1, 1), 0.125, 10), (3, 35, 35)),
    "resnet50": Network(lambda: resnet_imagenet(Bottleneck, (1, 2), 0.125, 10), (3, 33, 33)),
    "googlenet": Network(lambda: googlenet(0.1, 10, (2, 1, 1)), (3, 40, 40)),
    "yolo-tiny": Network(lambda: YoloTiny(0.25, 2), (3, 32, 32)),
    "unet": Network(lambda: UNet(8, 2), (3, 16, 20)),
    "vgg16": Network(lambda: vgg(((8, 2), (16, 2), (20, 1)), 24, 64, 10), (3, 24, 24)),
}
"""The same topologies with few channels and pixels."""


def images(shape: tuple[int, ...], count: int, seed: int) -> NDArray[np.float32]:
    """(count, *shape): large patches of one colour with a little noise, in a range like that of
    normalized pictures; for shapes that are no images, noise."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(count, *shape))
    if len(shape) < 3:
        return noise.astype(np.float32)
    height, width = shape[1:]
    coarse = rng.normal(size=(count, shape[0], math.ceil(height / 8), math.ceil(width / 8)))
    patches = coarse.repeat(8, 2).repeat(8, 3)[:, :, :height, :width]
    return (patches + 0.3 * noise).astype(np.float32)


def build(network: Network, seed: int = 0) -> nn.Module:
    """In evaluation mode."""
    torch.manual_seed(seed)
    module = network.build()
    norms = []
    for part in module.modules():
        if isinstance(part, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            if part.bias is not None:
                nn.init.uniform_(part.bias, -0.1, 0.1)
        elif isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.3)
            part.momentum = None  # the statistics of what follows, not a moving average
            norms.append(part)
    if norms:
        count = 4 if math.prod(network.shape) > 50_000 else 32
        module.train()
        with torch.no_grad():
            module(torch.from_numpy(images(network.shape, count, seed + 1)))
    return module.eval()
