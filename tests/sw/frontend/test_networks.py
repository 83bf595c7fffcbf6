# SPDX-License-Identifier: Apache-2.0
"""Small networks of the families people use, quantized by Bitloop, against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_programs import check, check_totals, export

from bitloop.errors import FrontendError
from bitloop.graph.ir import Concat, Conv, Slice, Table
from bitloop.quantize import quantize


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(3)


def conv(inputs: int, outputs: int, kernel: int = 3, **options: object) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **options)  # type: ignore[arg-type]
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, act: type[nn.Module]) -> None:
        super().__init__()
        hidden = inputs * 3
        self.residual = stride == 1 and inputs == outputs
        self.body = nn.Sequential(
            conv(inputs, hidden, 1), act(),
            conv(hidden, hidden, 3, stride=stride, groups=hidden), act(),
            conv(hidden, outputs, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def test_mobilenet_v2() -> None:
    network = nn.Sequential(
        conv(3, 8, stride=2), nn.ReLU6(),
        InvertedResidual(8, 8, 1, nn.ReLU6), InvertedResidual(8, 12, 2, nn.ReLU6),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(12, 5),
    )  # fmt: skip
    graph = check(network, (3, 24, 24))
    assert len([n for n in graph.nodes if isinstance(n, Conv)]) == 8


def test_mobilenet_v3_without_squeeze_and_excitation() -> None:
    network = nn.Sequential(
        conv(3, 8, stride=2), nn.Hardswish(), InvertedResidual(8, 8, 1, nn.Hardswish),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 16), nn.Hardswish(), nn.Linear(16, 5),
    )  # fmt: skip
    graph = check(network, (3, 24, 24))
    tables = [n for n in graph.nodes if isinstance(n, Table)]
    assert [n.function for n in tables] == ["hardswish"] * 4


class SqueezeExcitation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.second(F.relu(self.first(F.adaptive_avg_pool2d(x, 1))))
        return torch.cumsum(x * F.hardsigmoid(gate), 1)


def test_squeeze_and_excitation_is_refused() -> None:
    program = export(nn.Sequential(conv(3, 8), SqueezeExcitation()), (3, 8, 8))
    with pytest.raises(FrontendError) as caught:
        quantize(program, np.zeros((2, 3, 8, 8), np.float32))
    for part in ("mul (mul): a product of two activations (squeeze-and-excitation",
                 "cumsum (cumsum): operator not supported"):  # fmt: skip
        assert part in str(caught.value)


class Fire(nn.Module):
    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.one, self.three = (
            nn.Conv2d(squeeze, expand, k, padding=k // 2) for k in (1, 3)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.one(x)), F.relu(self.three(x))], 1)


def test_squeezenet() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True), Fire(8, 4, 8),
        Fire(16, 4, 8), nn.Dropout(), nn.Conv2d(16, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )  # fmt: skip
    graph = check(network, (3, 25, 25))
    assert sum(isinstance(n, Concat) for n in graph.nodes) == 2
    assert not any("part" in n.name for n in graph.nodes), "parts are made on the common scale"


class Inception(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.one = conv(inputs, 4, 1)
        self.three = nn.Sequential(conv(inputs, 4, 1), nn.ReLU(), conv(4, 6, 3))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(inputs, 3, 1))
        self.average = nn.Sequential(
            nn.AvgPool2d(3, 1, 1, count_include_pad=False), conv(inputs, 3, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([F.relu(p(x)) for p in (self.one, self.three, self.pool, self.average)], 1)


def test_googlenet() -> None:
    network = nn.Sequential(
        conv(3, 8, stride=2), nn.ReLU(), Inception(8), Inception(16),
        nn.AvgPool2d(3, 2, ceil_mode=True), nn.Flatten(), nn.Linear(16 * 36, 7),
    )  # fmt: skip
    graph = check(network, (3, 24, 24))
    assert sum(isinstance(n, Concat) for n in graph.nodes) == 2


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = conv(1, 6), conv(6, 8)
        self.middle = conv(8, 12)
        self.up2, self.up1 = nn.ConvTranspose2d(12, 8, 2, 2), nn.ConvTranspose2d(8, 6, 3, 2, 1, 1)
        self.out2, self.out1 = conv(16, 8), conv(12, 6)
        self.head = nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.down1(x))
        b = F.relu(self.down2(F.max_pool2d(a, 2)))
        c = F.relu(self.middle(F.max_pool2d(b, 2)))
        d = F.relu(self.out2(torch.cat([self.up2(c), b], 1)))
        e = F.relu(self.out1(torch.cat([self.up1(d), a], 1)))
        return self.head(e)


def test_unet() -> None:
    graph = check(UNet(), (1, 16, 20), images=8)
    assert sum(n.input_dilation != (1, 1) for n in graph.nodes if isinstance(n, Conv)) == 2
    assert not any("part" in n.name for n in graph.nodes), "parts are made on the common scale"


class Yolo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = conv(3, 8), conv(8, 16)
        self.lateral, self.out1, self.out2 = conv(16, 8, 1), conv(16, 9, 1), conv(16, 9, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a = F.leaky_relu(self.stem(x), 0.1)
        b = F.leaky_relu(self.deep(F.max_pool2d(a, 2)), 0.1)
        c = F.interpolate(F.leaky_relu(self.lateral(b), 0.1), scale_factor=2, mode="nearest")
        return self.out1(b), self.out2(torch.cat([c, a], 1))


def test_yolo_tiny() -> None:
    graph = check(Yolo(), (3, 16, 16), images=8)
    assert len(graph.outputs) == 2
    assert {n.function for n in graph.nodes if isinstance(n, Table)} == {"leaky_relu"}


def test_vgg() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d((3, 3)), nn.Flatten(), nn.Linear(108, 32), nn.ReLU(True),
        nn.Dropout(), nn.Linear(32, 10),
    )  # fmt: skip
    check(network.to(memory_format=torch.channels_last), (3, 24, 24))


class Basic(nn.Module):
    """ResNet-20's block; option A: strided identity, missing channels zero."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.a, self.b = conv(inputs, outputs, stride=stride), conv(outputs, outputs)
        self.stride, self.missing = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(F.relu(self.a(x)))
        if self.stride != 1 or self.missing:
            half = self.missing // 2
            x = F.pad(
                x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half), "constant", 0
            )
        return F.relu(x + y)


def test_resnet20_option_a() -> None:
    network = nn.Sequential(
        conv(3, 8), nn.ReLU(), Basic(8, 8, 1), Basic(8, 16, 2), Basic(16, 32, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    graph = check(network, (3, 16, 16))
    assert sum(isinstance(n, Slice) for n in graph.nodes) <= 2


def test_autoencoder() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(8 * 16, 12), nn.Linear(12, 8 * 16), nn.ReLU(), nn.Unflatten(1, (8, 4, 4)),
        nn.ConvTranspose2d(8, 6, 3, 2, 1, 1), nn.BatchNorm2d(6), nn.ReLU(),
        nn.ConvTranspose2d(6, 1, 4, 2, 1), nn.Sigmoid(),
    )  # fmt: skip
    graph = check(network, (1, 16, 16))
    assert [n.name for n in graph.nodes if "order" in n.name] == [], "the linear layer reorders"


def test_keywords_in_one_dimension() -> None:
    network = nn.Sequential(
        nn.Conv1d(10, 16, 5, 2, 2), nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(2),
        nn.Conv1d(16, 16, 3, padding="same", groups=16), nn.SiLU(), nn.Conv1d(16, 24, 1),
        nn.AvgPool1d(3, 2, 1), nn.ConvTranspose1d(24, 8, 3, 2), nn.Tanh(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 12),
    )  # fmt: skip
    graph = check(network, (10, 49), images=120)
    assert graph.tensors[graph.inputs[0]].shape == (1, 49, 10)


class ChannelsLast(nn.Module):
    """As Keras has images, and a linear layer for every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.head = conv(3, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.stem(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        y = y + F.gelu(self.mix(y))
        return self.head(y.mean((1, 2)))


def test_channels_last() -> None:
    graph = check(ChannelsLast(), (12, 10, 3))
    source = graph.tensors[graph.inputs[0]]
    assert (source.shape, source.source_layout) == ((12, 10, 3), "NHWC")


class Shuffle(nn.Module):
    """ShuffleNet's unit: split, branch, concatenate, shuffle channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch = conv(3, 8), nn.Sequential(conv(4, 4, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        a, b = F.relu(self.stem(x)).chunk(2, 1)
        x = torch.cat([a, self.branch(b)], 1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.branch(x[:, 2:6]) - x[:, 4:]


def test_shufflenet() -> None:
    check(Shuffle(), (3, 10, 10))


def test_all_together() -> None:
    """Float32 sums that lie on a tie by chance, over all that was compared in this process."""
    check_totals()
