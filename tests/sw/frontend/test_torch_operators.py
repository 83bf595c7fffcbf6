# SPDX-License-Identifier: Apache-2.0
"""PyTorch's operators one or a few at a time, quantized by Bitloop or as torchao does, compared."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_programs import check, check_quantized, check_totals, compare, export

from bitloop.graph.execute import execute
from bitloop.graph.ir import Add, AvgPool, Concat, Conv, MaxPool, Slice, Table
from bitloop.quantize import quantize


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(5)


class Between(nn.Module):
    """A function between two convolutions of 6 channels."""

    def __init__(self, function: Callable[[Tensor], Tensor], outputs: int = 6) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 6, 3, padding=1), nn.LazyConv2d(4, 1)
        self.function = function
        self.prelu = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


def network(function: Callable[[Tensor], Tensor], shape: tuple[int, ...] = (2, 11, 9)) -> nn.Module:
    module = Between(function)
    module(torch.zeros(1, *shape))
    return module


TABLES: list[Callable[[Tensor], Tensor]] = [
    torch.sigmoid, torch.tanh, F.hardswish, F.hardsigmoid, F.silu, F.gelu, F.elu, F.selu, F.mish,
    F.softplus, F.softsign, torch.abs, torch.square, torch.exp, torch.neg, F.logsigmoid,
    lambda x: F.leaky_relu(x, 0.1), lambda x: F.gelu(x, approximate="tanh"),
    lambda x: x * torch.sigmoid(x), lambda x: x * F.relu6(x + 3) / 6,
    lambda x: 1 / (1 + torch.exp(-x)), lambda x: torch.minimum(x, torch.tensor(0.5)),
    lambda x: torch.tanh(F.softplus(x * 0.5)) - 0.25, lambda x: x - torch.tanh(x),
]  # fmt: skip


@pytest.mark.parametrize("function", TABLES)
def test_functions_of_one_value(function: Callable[[Tensor], Tensor]) -> None:
    graph = check(network(function), (2, 11, 9))
    assert len(graph.nodes) <= 3, "one table at most, of all that was computed in between"


def test_prelu() -> None:
    class Learned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act = nn.Conv2d(2, 6, 3), nn.PReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.conv(x))

    graph = check(Learned(), (2, 11, 9))
    assert isinstance(graph.nodes[-1], Table) and graph.nodes[-1].function == "prelu"


CHANNEL = torch.linspace(-1.5, 1.5, 6).view(6, 1, 1)
NORM = nn.BatchNorm2d(6)

MOVES: dict[str, tuple[Callable[[Tensor], Tensor], dict[type, int]]] = {
    "constant a channel": (lambda x: torch.relu(torch.relu(x) * CHANNEL + 0.5), {Conv: 4}),
    "reflected difference": (lambda x: 1 - torch.relu(x), {Conv: 3}),
    "difference": (lambda x: torch.relu(x) - F.max_pool2d(x, 3, 1, 1), {Add: 1}),
    "upsampling": (lambda x: F.interpolate(x, scale_factor=(2, 3)), {Conv: 3}),
    "slices": (lambda x: x[:, 1:5, 1::2, 2:], {Slice: 1}),
    "focus": (
        lambda x: torch.cat([x[:, :, i : i + 8 : 2, j : j + 8 : 2] for i in (0, 1) for j in (0, 1)],
                            1),
        {Slice: 4, Concat: 1},
    ),
    "padded maximum": (lambda x: F.max_pool2d(F.pad(x, (1, 0, 2, 1)), 2), {Conv: 3, MaxPool: 1}),
    "padding with a value": (lambda x: F.pad(x, (0, 0, 0, 0, 1, 2), value=1.5), {Conv: 3}),
    "pixel shuffle": (lambda x: F.pixel_shuffle(F.max_pool2d(x, 4)[:, :4], 2), {Conv: 3}),
    "rows merged": (lambda x: x.flatten(2).unflatten(2, (9, 11)), {}),
    "uncounted border": (lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), {AvgPool: 1}),
    "cut windows": (lambda x: F.avg_pool2d(x, 4, 3, 1, ceil_mode=True), {AvgPool: 1}),
    "own divisor": (lambda x: F.avg_pool2d(x, 3, 2, 1, True, False, 7), {AvgPool: 1}),
    "global maximum": (lambda x: x.amax((2, 3), keepdim=True), {MaxPool: 1}),
    "adaptive maximum": (lambda x: F.adaptive_max_pool2d(x[:, :, :10, :8], 2), {MaxPool: 1}),
    "concatenation twice": (lambda x: torch.cat([x, torch.cat([x, F.relu6(x)], 1)], 1),
                            {Concat: 2}),
}  # fmt: skip


@pytest.mark.parametrize("name", MOVES)
def test_movement_and_constants(name: str) -> None:
    function, kinds = MOVES[name]
    graph = check(network(function), (2, 11, 9))
    for kind, count in kinds.items():
        assert sum(isinstance(node, kind) for node in graph.nodes) == count, graph.nodes


def test_averages_divide_by_what_they_count() -> None:
    """A constant image stays constant up to its border, whatever the windows reach."""
    module = nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False)
    program = export(module, (3, 8, 7))
    x = np.random.default_rng(1).normal(size=(9, 3, 8, 7)).astype(np.float32)
    quantized = quantize(program, x)
    graph = compare(quantized, 16, x).graph
    (node,) = graph.nodes
    assert isinstance(node, AvgPool) and len(node.regions) == 8
    image = np.full((1, 8, 7, 3), 200, np.uint8)
    found = execute(graph, {graph.inputs[0]: image})[graph.outputs[0]]
    assert np.unique(found).size == 1


def test_standalone_batch_norm() -> None:
    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.conv = nn.BatchNorm2d(2), nn.Conv2d(2, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(torch.relu(self.norm(x)))

    graph = check(First(), (2, 20, 20))
    assert [n.operator for n in graph.nodes if isinstance(n, Conv)] == ["scale", "conv"]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.ConvTranspose2d(4, 6, 3, 2, output_padding=1), (4, 7, 6)),
        (nn.ConvTranspose2d(4, 6, (2, 5), (3, 1), (0, 2), groups=2), (4, 7, 6)),
        (nn.ConvTranspose2d(4, 4, 4, 2, 1, groups=4, bias=False), (4, 7, 6)),
        (nn.ConvTranspose2d(4, 5, 3, 2, 1, 1, dilation=2), (4, 7, 6)),
        (nn.Conv1d(4, 6, 3, padding=2, dilation=2, groups=2), (4, 40)),
    ],
)
@pytest.mark.parametrize("weights", [8, 2])
def test_layers(layer: nn.Module, shape: tuple[int, ...], weights: int) -> None:
    torch.manual_seed(0)  # a scale next to a power of two would make many ties
    layer.reset_parameters()  # type: ignore[operator]
    check(nn.Sequential(layer, nn.ReLU()), shape, weights=weights, images=60)


def test_static_batch_and_vector_to_image() -> None:
    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(12, 60), nn.Conv2d(5, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.outer(self.inner(x).reshape(3, 5, 3, 4))).reshape(3, -1)

    program = export(Decoder(), (12,), batch=3)
    x = np.random.default_rng(0).normal(size=(3, 12)).astype(np.float32)
    found = compare(quantize(program, x), 31, x)
    assert found.wrong == 0 and len(found.graph.nodes) == 3
    spec = found.graph.tensors[found.graph.outputs[0]]
    assert (spec.shape, spec.source_shape, spec.source_layout) == ((3, 4, 3), (36,), "NCHW")


def test_xnnpack_quantizer() -> None:
    """torchao's own way: int8 activations, shared scales, quantize operators between all."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.testing.pt2e._xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            self.norm, self.point = nn.BatchNorm2d(8), nn.Conv2d(16, 4, 1)
            self.out = nn.Linear(4, 6)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.norm(self.a(x)))
            y = F.hardswish(self.b(F.max_pool2d(x, 2)))
            y = torch.cat([F.interpolate(y, scale_factor=2.0), x], 1)
            return self.out(F.adaptive_avg_pool2d(self.point(y), 1).flatten(1))

    program = export(Net(), (3, 12, 12))
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(True))
    prepared = prepare_pt2e(program.module(check_guards=False), quantizer)
    x = torch.randn(64, 3, 12, 12)
    with torch.no_grad():
        prepared(x)
    again = torch.export.export(
        convert_pt2e(prepared), (x[:2],), dynamic_shapes=({0: torch.export.Dim.AUTO},)
    )
    graph = check_quantized(again, x.numpy())
    assert {spec.source_dtype for spec in graph.tensors.values()} == {"int8"}


def test_all_together() -> None:
    """Float32 sums that lie on a tie by chance, over all that was compared in this process."""
    check_totals()
