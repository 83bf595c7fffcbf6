# SPDX-License-Identifier: Apache-2.0
"""Image classifiers in plain PyTorch, as their papers have them; `width` scales their channels and
`classes` their last layer, for small copies of the same topology."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution and batch-norm, image size kept at stride 1."""
    layer = nn.Conv2d(
        inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False
    )
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


def scaled(channels: int, width: float) -> int:
    """A multiple of 4, as networks of another width have."""
    return max(4, int(channels * width + 2) // 4 * 4)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a residual (He et al., CVPR 2016)."""

    expansion = 1

    def __init__(self, inputs: int, channels: int, stride: int, shortcut: str = "conv") -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(inputs, channels, 3, stride), nn.ReLU(), conv(channels, channels)
        )
        self.shortcut = _shortcut(inputs, channels, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride, 1x1 to four times the channels."""

    expansion = 4

    def __init__(self, inputs: int, channels: int, stride: int, shortcut: str = "conv") -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(inputs, channels, 1), nn.ReLU(), conv(channels, channels, 3, stride), nn.ReLU(),
            conv(channels, 4 * channels, 1),
        )  # fmt: skip
        self.shortcut = _shortcut(inputs, 4 * channels, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class PaddedShortcut(nn.Module):
    """Option A: every second pixel, channels of zeros on both sides."""

    def __init__(self, more: int) -> None:
        super().__init__()
        self.more = more

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))


def _shortcut(inputs: int, outputs: int, stride: int, kind: str) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return PaddedShortcut(outputs - inputs) if kind == "pad" else conv(inputs, outputs, 1, stride)


def _residual_stages(
    block: type[BasicBlock] | type[Bottleneck],
    inputs: int,
    stages: tuple[tuple[int, int], ...],
    shortcut: str = "conv",
) -> tuple[list[nn.Module], int]:
    """`stages`: (channels, blocks); each but the first halves the image."""
    layers: list[nn.Module] = []
    for number, (channels, blocks) in enumerate(stages):
        for i in range(blocks):
            stride = 2 if number and not i else 1
            layers.append(block(inputs, channels, stride, shortcut))
            inputs = channels * block.expansion
    return layers, inputs


def resnet_imagenet(
    block: type[BasicBlock] | type[Bottleneck],
    blocks: tuple[int, ...],
    width: float = 1,
    classes: int = 1000,
) -> nn.Module:
    """ResNet-18 is (BasicBlock, (2, 2, 2, 2)), ResNet-50 (Bottleneck, (3, 4, 6, 3))."""
    channels = [scaled(64 << i, width) for i in range(len(blocks))]
    stages = tuple(zip(channels, blocks, strict=True))
    layers, last = _residual_stages(block, channels[0], stages)
    return nn.Sequential(
        conv(3, channels[0], 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1), *layers,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, classes),
    )  # fmt: skip


def resnet_cifar(
    blocks: int, width: float = 1, classes: int = 10, shortcut: str = "pad"
) -> nn.Module:
    """ResNet-20 has 3 blocks a stage and option A, MLPerf Tiny's ResNet-8 one and convolutions."""
    stages = tuple((scaled(16 << i, width), blocks) for i in range(3))
    layers, last = _residual_stages(BasicBlock, stages[0][0], stages, shortcut)
    return nn.Sequential(
        conv(3, stages[0][0]), nn.ReLU(), *layers,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, classes),
    )  # fmt: skip


def _separable(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        conv(inputs, inputs, 3, stride, inputs), nn.ReLU(), conv(inputs, outputs, 1), nn.ReLU()
    )


def mobilenet_v1(width: float = 0.25, classes: int = 2) -> nn.Module:
    """Howard et al., 2017; a quarter of the width at 96x96 is MLPerf Tiny's visual wake words."""
    plan = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5,
            (1024, 2), (1024, 1))  # fmt: skip
    channels = scaled(32, width)
    layers: list[nn.Module] = [conv(3, channels, 3, 2), nn.ReLU()]
    for outputs, stride in plan:
        layers.append(_separable(channels, scaled(outputs, width), stride))
        channels = scaled(outputs, width)
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)
    )


class InvertedResidual(nn.Module):
    """Sandler et al., CVPR 2018: expand, depthwise, project without activation."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [conv(inputs, hidden, 1), nn.ReLU6()] if expansion > 1 else []
        self.body = nn.Sequential(
            *expand, conv(hidden, hidden, 3, stride, hidden), nn.ReLU6(), conv(hidden, outputs, 1)
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def mobilenet_v2(
    width: float = 1,
    classes: int = 1000,
    plan: tuple[tuple[int, int, int, int], ...] = (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
        (6, 320, 1, 1),
    ),
) -> nn.Module:  # fmt: skip
    """`plan`: (expansion, channels, blocks, stride) of each stage."""
    channels, last = scaled(32, width), scaled(1280, width)
    layers: list[nn.Module] = [conv(3, channels, 3, 2), nn.ReLU6()]
    for expansion, outputs, blocks, stride in plan:
        for i in range(blocks):
            wide = scaled(outputs, width)
            layers.append(InvertedResidual(channels, wide, 1 if i else stride, expansion))
            channels = wide
    return nn.Sequential(
        *layers, conv(channels, last, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Dropout(0.2), nn.Linear(last, classes),
    )  # fmt: skip


def vgg(
    stages: tuple[tuple[int, int], ...] = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)),
    size: int = 224,
    hidden: int = 4096,
    classes: int = 1000,
) -> nn.Module:
    """VGG-16 without batch-norm (Simonyan and Zisserman, 2015); `stages`: (channels, layers), each
    halves the image; `size`: of the image."""
    layers: list[nn.Module] = []
    inputs = 3
    for channels, count in stages:
        for _ in range(count):
            layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.ReLU()]
            inputs = channels
        layers.append(nn.MaxPool2d(2))
    flat = inputs * (size >> len(stages)) ** 2
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(flat, hidden), nn.ReLU(), nn.Dropout(),
        nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(), nn.Linear(hidden, classes),
    )  # fmt: skip


class Inception(nn.Module):
    """Szegedy et al., CVPR 2015: 1x1, 1x1-3x3 twice, and pooling-1x1, one beside the other."""

    def __init__(self, inputs: int, channels: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        one, reduce3, three, reduce5, five, pool = channels
        self.one = conv(inputs, one, 1)
        self.three = nn.Sequential(conv(inputs, reduce3, 1), nn.ReLU(), conv(reduce3, three))
        self.five = nn.Sequential(conv(inputs, reduce5, 1), nn.ReLU(), conv(reduce5, five, 5))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(inputs, pool, 1))
        self.outputs = one + three + five + pool

    def forward(self, x: Tensor) -> Tensor:
        parts = (self.one, self.three, self.five, self.pool)
        return torch.cat([F.relu(part(x)) for part in parts], 1)


_INCEPTIONS = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    ((192, 96, 208, 16, 48, 64), (160, 112, 224, 24, 64, 64), (128, 128, 256, 24, 64, 64),
     (112, 144, 288, 32, 64, 64), (256, 160, 320, 32, 128, 128)),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)  # fmt: skip


def googlenet(
    width: float = 1, classes: int = 1000, stages: tuple[int, int, int] = (2, 5, 2)
) -> nn.Module:
    """With batch-norm and without auxiliary classifiers; `stages`: inception blocks of each."""
    first, wide = scaled(64, width), scaled(192, width)
    layers: list[nn.Module] = [
        conv(3, first, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True), conv(first, first, 1),
        nn.ReLU(), conv(first, wide), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True),
    ]  # fmt: skip
    channels = wide
    for number, (blocks, count) in enumerate(zip(_INCEPTIONS, stages, strict=True)):
        for block in blocks[:count]:
            sizes = [scaled(size, width) for size in block]
            layers.append(Inception(channels, (*sizes,)))  # type: ignore[arg-type]
            channels = layers[-1].outputs  # type: ignore[assignment]
        if number < len(_INCEPTIONS) - 1:
            layers.append(nn.MaxPool2d(3 - number, 2, ceil_mode=True))
    return nn.Sequential(
        *layers,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(channels, classes),
    )
