# SPDX-License-Identifier: Apache-2.0
"""A network with everything that training treats in a way of its own, and digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

from bitloop.dataset import Dataset
from bitloop.demo.digits import load_digits
from bitloop.demo.digits import train as train_float
from bitloop.programs import export_module

torch.set_num_threads(1)


class Various(nn.Module):
    """Batch-norm with factors below 0, a convolution without one, in-place ReLU, a residual, a
    depthwise and a transposed convolution, a concatenation, a table, softmax at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.act = nn.Hardswish()
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(x))
        y += x
        y = self.relu(y)
        z = self.up(torch.relu(self.depthwise(y)))
        x = torch.cat((self.act(z), y), 1)
        x = torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1)
        return torch.softmax(self.fc(x), 1)


def various() -> nn.Module:
    torch.manual_seed(3)
    network = Various()
    for norm in (network.bn1, network.bn2):
        nn.init.uniform_(norm.running_mean, -0.5, 0.5)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
        nn.init.uniform_(norm.weight, -1.5, 1.5)
        nn.init.normal_(norm.bias, std=0.3)
    return network.eval()


@pytest.fixture(scope="session")
def program() -> ExportedProgram:
    return export_module(various(), np.zeros((2, 3, 8, 8), np.float32))


@pytest.fixture(scope="session")
def data() -> Dataset:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(48, 3, 8, 8)).astype(np.float32)
    return Dataset(x, rng.integers(0, 5, 48))


@pytest.fixture(scope="session")
def digits() -> tuple[ExportedProgram, Dataset, Dataset]:
    """The demo's network, and images to train and to score on."""
    training, test = load_digits()
    return export_module(train_float(training, epochs=4), training.x), training, test
