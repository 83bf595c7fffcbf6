# SPDX-License-Identifier: Apache-2.0
"""Networks in plain PyTorch that do more than label images: keyword spotting, anomaly detection,
object detection, segmentation."""

from __future__ import annotations

import torch
from network_classifiers import conv, scaled
from torch import Tensor, nn
from torch.nn import functional as F


def ds_cnn(channels: int = 64, classes: int = 12, blocks: int = 4) -> nn.Module:
    """MLPerf Tiny's keyword spotting (Zhang et al., 2017) on 49x10 features: the first kernel is
    10x4, stride 2, padded as TensorFlow pads."""
    layers: list[nn.Module] = [
        nn.ZeroPad2d((1, 1, 4, 5)), nn.Conv2d(1, channels, (10, 4), 2, bias=False),
        nn.BatchNorm2d(channels), nn.ReLU(),
    ]  # fmt: skip
    for _ in range(blocks):
        layers += [
            conv(channels, channels, 3, groups=channels), nn.ReLU(),
            conv(channels, channels, 1), nn.ReLU(),
        ]  # fmt: skip
    return nn.Sequential(
        *layers,
        nn.Dropout(0.4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, classes),
    )


def autoencoder(inputs: int = 640, hidden: int = 128, code: int = 8, layers: int = 4) -> nn.Module:
    """MLPerf Tiny's anomaly detection: 640, 4 x 128, 8, 4 x 128, 640."""
    sizes = [inputs, *[hidden] * layers, code, *[hidden] * layers]
    parts: list[nn.Module] = []
    for size, following in zip(sizes, sizes[1:], strict=False):
        parts += [nn.Linear(size, following), nn.BatchNorm1d(following), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(hidden, inputs))


def keywords_1d(features: int = 40, channels: int = 64, classes: int = 12) -> nn.Module:
    """Convolutions in time only, with residuals (as TC-ResNet, Choi et al., 2019)."""

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv1d(inputs, outputs, 9, 2, 4, bias=False), nn.BatchNorm1d(outputs), nn.ReLU(),
                nn.Conv1d(outputs, outputs, 9, 1, 4, bias=False), nn.BatchNorm1d(outputs),
            )  # fmt: skip
            self.shortcut = nn.Sequential(
                nn.Conv1d(inputs, outputs, 1, 2, bias=False), nn.BatchNorm1d(outputs)
            )

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.body(x) + self.shortcut(x))

    half = channels // 2
    return nn.Sequential(
        nn.Conv1d(features, half, 3, padding=1, bias=False), nn.BatchNorm1d(half), nn.ReLU(),
        Block(half, half), Block(half, 3 * half // 2), Block(3 * half // 2, channels),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(channels, classes),
    )  # fmt: skip


class YoloTiny(nn.Module):
    """YOLOv3-tiny's shape (Redmon and Farhadi, 2018): leaky ReLU, maxima that halve and one that
    does not, two scales joined by upsampling and concatenation; boxes are decoded by the host."""

    def __init__(self, width: float = 1, classes: int = 80) -> None:
        super().__init__()
        sizes = [scaled(16 << i, width) for i in range(7)]
        outputs, wide, mid = 3 * (5 + classes), sizes[6], sizes[4]

        def leaky(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
            return nn.Sequential(conv(inputs, outputs, kernel), nn.LeakyReLU(0.1))

        fine: list[nn.Module] = [leaky(3, sizes[0])]
        for inputs, following in zip(sizes[:4], sizes[1:5], strict=True):
            fine += [nn.MaxPool2d(2), leaky(inputs, following)]
        self.fine = nn.Sequential(*fine)
        self.coarse = nn.Sequential(
            nn.MaxPool2d(2), leaky(mid, sizes[5]), nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(2, 1),
            leaky(sizes[5], wide), leaky(wide, mid, 1),
        )  # fmt: skip
        self.up = nn.Sequential(leaky(mid, mid // 2, 1), nn.Upsample(scale_factor=2))
        self.head_coarse = nn.Sequential(leaky(mid, sizes[5]), nn.Conv2d(sizes[5], outputs, 1))
        self.head_fine = nn.Sequential(leaky(mid + mid // 2, mid), nn.Conv2d(mid, outputs, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.fine(x)
        coarse = self.coarse(fine)
        joined = torch.cat([self.up(coarse), fine], 1)
        return self.head_coarse(coarse), self.head_fine(joined)


class UNet(nn.Module):
    """Ronneberger et al., 2015, with padding: each level halves, transposed convolutions double,
    skips are concatenated."""

    def __init__(self, channels: int = 32, levels: int = 4, classes: int = 2) -> None:
        super().__init__()
        sizes = [channels << i for i in range(levels + 1)]
        self.down = nn.ModuleList(
            self._double(a, b) for a, b in zip([3, *sizes], sizes, strict=False)
        )
        rising = sizes[::-1]
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 2, 2) for a, b in zip(rising, rising[1:], strict=False)
        )
        self.join = nn.ModuleList(self._double(2 * size, size) for size in rising[1:])
        self.head = nn.Conv2d(channels, classes, 1)

    @staticmethod
    def _double(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(conv(inputs, outputs), nn.ReLU(), conv(outputs, outputs), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for number, level in enumerate(self.down):
            x = level(F.max_pool2d(x, 2) if number else x)
            skips.append(x)
        for up, join, skip in zip(self.up, self.join, skips[-2::-1], strict=True):
            x = join(torch.cat([skip, up(x)], 1))
        return self.head(x)
