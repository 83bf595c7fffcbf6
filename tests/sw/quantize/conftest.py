# SPDX-License-Identifier: Apache-2.0
"""Networks this small lose more to a second thread than they gain."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

torch.set_num_threads(1)


class Chain(nn.Module):
    """Batch-norm, depthwise, a residual, pooling, linear: what repairs work on."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 12, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(12)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.conv2 = nn.Conv2d(12, 16, 1)
        self.conv3 = nn.Conv2d(16, 16, 3, padding=1)
        self.hidden = nn.Linear(16, 20)
        self.classifier = nn.Linear(20, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = nn.functional.max_pool2d(torch.relu(self.depthwise(x)), 2)
        x = torch.relu(self.conv2(x))
        x = torch.relu(x + self.conv3(x))
        x = torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1)
        return self.classifier(torch.relu(self.hidden(x)))


@pytest.fixture(scope="session")
def chain() -> ExportedProgram:
    """A float network whose channels have very different ranges."""
    torch.manual_seed(0)
    network = Chain()
    nn.init.uniform_(network.bn1.running_mean, -0.5, 0.5)
    nn.init.uniform_(network.bn1.running_var, 0.5, 2.0)
    for weight in (network.bn1.weight, network.depthwise.weight, network.conv2.weight):
        with torch.no_grad():
            weight.mul_(torch.exp(torch.randn(len(weight), *[1] * (weight.ndim - 1))))
    example = (torch.randn(2, 3, 8, 8),)
    return torch.export.export(
        network.eval(), example, dynamic_shapes=({0: torch.export.Dim.AUTO},)
    )


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(64, 3, 8, 8)).astype(np.float32)


def outputs(program: ExportedProgram, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return program.module()(torch.from_numpy(x)).numpy()


@pytest.fixture(scope="session", name="outputs")
def _outputs() -> object:
    """What PyTorch computes: `outputs(program, x)`."""
    return outputs
