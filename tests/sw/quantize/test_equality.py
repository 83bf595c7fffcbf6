# SPDX-License-Identifier: Apache-2.0
"""The golden model against PyTorch running the same quantized program, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import Interpreter

from bitloop.frontend.torch_export import import_program
from bitloop.graph.execute import run_node
from bitloop.graph.ir import Graph, MaxPool
from bitloop.quantize import quantize


class Mixed(nn.Module):
    """Every operator: batch-norm, residuals (one in place), depthwise, pooling, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.block = nn.Sequential(
            nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(inplace=True),
            nn.Conv2d(16, 16, 3, padding=2, dilation=2, groups=4), nn.BatchNorm2d(16),
        )  # fmt: skip
        self.depthwise = nn.Conv2d(16, 16, 3, padding="same", groups=16)
        self.point = nn.Conv2d(16, 24, 1)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.average = nn.AvgPool2d(3, 2, 1)
        self.expand = nn.Conv2d(24, 48, 3, groups=24)
        self.hidden = nn.Linear(48 * 4, 20)
        self.dropout = nn.Dropout(0.3)
        self.classifier = nn.Linear(20, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(x + self.block(x))
        y = nn.functional.relu6(self.depthwise(x))
        y += x
        x = self.pool(nn.functional.hardtanh(self.point(y), -1.0, 2.0))
        x = self.expand(nn.functional.pad(self.average(x), (0, 1, 0, 1)))
        x = nn.functional.adaptive_avg_pool2d(x, 2) if x.shape[-1] != 2 else x
        x = torch.relu(self.hidden(self.dropout(torch.flatten(x, 1))))
        return self.classifier(x)


class Small(nn.Module):
    """Residual of a pooled input, global mean, no bias, functional layers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 2, 3, 3) / 4)
        self.fc = nn.Linear(8, 7, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.conv2d(x, self.weight, stride=(2, 1), padding=(1, 0))
        x = nn.functional.max_pool2d(x, 2, ceil_mode=True)
        x = x + nn.functional.relu(x)
        return self.fc(x.mean((2, 3)))


def export(module: nn.Module, shape: tuple[int, ...]) -> ExportedProgram:
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -0.5, 0.5)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.3)
    example = (torch.randn(2, *shape),)
    return torch.export.export(module.eval(), example, dynamic_shapes=({0: torch.export.Dim.AUTO},))


class Codes(Interpreter):
    """Runs a quantized program and keeps what its quantize operators return."""

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__(program.module(check_guards=False))
        self.codes: list[np.ndarray] = []

    def run_node(self, n: torch.fx.Node) -> object:
        if n.op == "call_module":
            return None
        value = super().run_node(n)
        if "quantize_per_tensor" in str(n.target) and "dequantize" not in str(n.target):
            codes = value.numpy().astype(np.int64) + (128 if value.dtype == torch.int8 else 0)
            codes = codes.transpose(0, 2, 3, 1) if codes.ndim == 4 else codes[:, None, None, :]
            self.codes.append(codes.astype(np.uint8))
        return value


@dataclass(frozen=True)
class Difference:
    wrong: int
    outputs: int
    largest: int


def differences(program: ExportedProgram, graph: Graph, x: np.ndarray) -> dict[str, Difference]:
    """For every layer, fed with PyTorch's codes, how its codes differ from PyTorch's."""
    run = Codes(program)
    with torch.no_grad():
        run.run(torch.from_numpy(x))
    own = [n.output for n in graph.nodes if not isinstance(n, MaxPool)]
    assert len(run.codes) == len(own) + 1
    expected = dict(zip([graph.inputs[0], *own], run.codes, strict=True))
    values = {graph.inputs[0]: run.codes[0]}
    result: dict[str, Difference] = {}
    for node in graph.nodes:
        codes = run_node(graph, node, [values[name] for name in node.inputs])
        if node.output in expected:
            difference = np.abs(codes.astype(int) - expected[node.output])
            result[node.name] = Difference(
                int((difference > 0).sum()), difference.size, int(difference.max())
            )
            codes = expected[node.output]
        values[node.output] = codes
    return result


@pytest.mark.parametrize(
    ("network", "shape", "weights"),
    [
        (Mixed, (3, 33, 33), 8),
        (Mixed, (3, 33, 33), 2),
        (Small, (2, 9, 12), 8),
        (Small, (2, 9, 12), 4),
    ],
)
def test_layers_equal_pytorch(
    network: type[nn.Module], shape: tuple[int, ...], weights: int
) -> None:
    torch.manual_seed(weights)
    program = export(network(), shape)
    x = np.random.default_rng(weights).normal(size=(24, *shape)).astype(np.float32)
    quantized = quantize(program, x, weights)
    for bits, share in ((31, 1e-5), (16, 1e-3)):
        found = differences(quantized, import_program(quantized, "net", bits), x)
        assert max(d.largest for d in found.values()) <= 1, found
        wrong = sum(d.wrong for d in found.values())
        outputs = sum(d.outputs for d in found.values())
        assert wrong <= share * outputs, (bits, wrong / outputs, found)
