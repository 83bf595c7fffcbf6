# SPDX-License-Identifier: Apache-2.0
"""Programs written with quantize and dequantize operators by hand, imported and compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from bitloop.errors import FrontendError
from bitloop.frontend.torch_export import (
    import_program,
    is_quantized,
    layer_names,
    load_program,
)
from bitloop.graph.execute import execute
from bitloop.graph.ir import AvgPool, Conv, Graph, MaxPool

ops = torch.ops.quantized_decomposed
Parameters = tuple[float, int, int, int, torch.dtype]

UINT8 = (0.02, 110, 0, 255, torch.uint8)
INT8 = (0.02, -18, -128, 127, torch.int8)
COARSE = (0.125, 120, 0, 255, torch.uint8)
FOUR_BITS = (0.25, 6, 0, 15, torch.uint8)


def fake(x: Tensor, p: Parameters) -> Tensor:
    """Quantize and dequantize."""
    return ops.dequantize_per_tensor(ops.quantize_per_tensor(x, *p), *p)


class Layer(nn.Module):
    """A convolution or linear layer with weight codes of `bits` bits."""

    codes: Tensor
    scales: Tensor

    def __init__(
        self, shape: tuple[int, ...], bits: int = 8, scale: float | None = None, **options: object
    ) -> None:
        super().__init__()
        self.limits = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
        low, high = self.limits
        codes = torch.randint(low, high + 1, shape, dtype=torch.int8)
        codes.view(-1)[:2] = torch.tensor([low, high], dtype=torch.int8)
        self.register_buffer("codes", codes)
        scales = (torch.rand(shape[0]) + 0.1) / high
        self.register_buffer("scales", scales if scale is None else torch.full_like(scales, scale))
        self.register_buffer("zeros", torch.zeros(shape[0], dtype=torch.int64))
        bias = torch.randn(shape[0]) if scale is None else torch.randint(-9, 9, (shape[0],)) * 0.25
        self.bias = nn.Parameter(bias)
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        weight = ops.dequantize_per_channel(
            self.codes, self.scales, self.zeros, 0, *self.limits, torch.int8
        )
        if weight.ndim == 2:
            return nn.functional.linear(x, weight, self.bias)
        return nn.functional.conv2d(x, weight, self.bias, **self.options)  # type: ignore[arg-type]


class Program(nn.Module):
    """A function of the input and some layers."""

    def __init__(self, function: Callable[..., Tensor], *layers: Layer) -> None:
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.layers)


def program_of(
    function: Callable[..., Tensor], *layers: Layer, shape: tuple[int, ...] = (3, 9, 8)
) -> ExportedProgram:
    example = (torch.randn(2, *shape),)
    return torch.export.export(
        Program(function, *layers).eval(), example,
        dynamic_shapes=({0: torch.export.Dim.AUTO},),
    )  # fmt: skip


def run_both(program: ExportedProgram, graph: Graph, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Codes of the graph and of PyTorch, (images, channels, height, width) or (images, n)."""
    source, target = graph.tensors[graph.inputs[0]], graph.tensors[graph.outputs[0]]
    codes = torch.round(x * np.float32(1 / np.float32(source.scale))) + source.zero_point
    codes = codes.clamp(0, 255).numpy().astype(np.uint8)
    codes = codes.transpose(0, 2, 3, 1) if codes.ndim == 4 else codes[:, None, None]
    found = execute(graph, {graph.inputs[0]: np.ascontiguousarray(codes)})[graph.outputs[0]]
    found = found.transpose(0, 3, 1, 2).reshape(len(x), *target.source_shape)
    with torch.no_grad():
        real = program.module()(x).numpy()
    expected = np.rint(real / np.float32(target.scale)) + target.zero_point
    return found.astype(int), expected.astype(int)


def check(program: ExportedProgram, x: Tensor, name: str = "net") -> Graph:
    graph = import_program(program, name, 31)
    found, expected = run_both(program, graph, x)
    assert np.abs(found - expected).max() <= 1
    assert (found != expected).mean() <= 1e-3
    assert np.unique(expected).size > 4
    return graph


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(1)


@pytest.mark.parametrize("parameters", [UINT8, INT8, FOUR_BITS])
@pytest.mark.parametrize(("bits", "stored"), [(8, 8), (7, 8), (4, 4), (3, 4), (2, 2)])
def test_convolution(parameters: Parameters, bits: int, stored: int) -> None:
    layer = Layer((6, 3, 3, 3), bits, padding=1, stride=2)
    program = program_of(lambda x, c: fake(c(fake(x, parameters)), parameters), layer)
    graph = check(program, torch.randn(40, 3, 9, 8))
    node = next(n for n in graph.nodes if isinstance(n, Conv))
    assert node.bits == stored
    source = graph.tensors[graph.inputs[0]]
    assert source.source_dtype == ("int8" if parameters is INT8 else "uint8")
    assert source.zero_point == parameters[1] + (128 if parameters is INT8 else 0)
    assert (source.source_shape, source.source_layout) == ((3, 9, 8), "NCHW")
    assert graph.tensors[graph.outputs[0]].source_shape == (6, 5, 4)


def test_shift_only_scales_round_ties_as_pytorch() -> None:
    """Power-of-two scales tie often; the float program is exact, so every code must agree."""
    coarse, fine = (0.25, 100, 0, 255, torch.uint8), (0.5, 101, 0, 255, torch.uint8)
    layer = Layer((8, 3, 3, 3), 4, scale=0.125)
    program = program_of(lambda x, c: fake(c(fake(x, coarse)), fine), layer)
    for bits in (16, 31):
        graph = import_program(program, "net", bits)
        node = graph.nodes[0]
        assert isinstance(node, Conv) and node.requant.half_even
        found, expected = run_both(program, graph, torch.randn(60, 3, 9, 8) * 9)
        assert (found == expected).all()
    half_up = dataclasses.replace(node.requant, half_even=False)
    up = dataclasses.replace(node, requant=half_up)
    graph = dataclasses.replace(graph, nodes=(up,))
    found, expected = run_both(program, graph, torch.randn(60, 3, 9, 8) * 9)
    assert (found != expected).mean() > 0.01


def test_linear_after_flatten_permutes_its_weights() -> None:
    conv, linear = Layer((5, 3, 3, 3)), Layer((7, 5 * 7 * 6))

    def function(x: Tensor, c: Layer, f: Layer) -> Tensor:
        x = fake(torch.relu(c(fake(x, UINT8))), COARSE)
        return fake(f(x.view(x.shape[0], -1)), COARSE)

    graph = check(program_of(function, conv, linear), torch.randn(50, 3, 9, 8))
    last = graph.nodes[-1]
    assert isinstance(last, Conv) and last.weights.shape == (7, 7, 6, 5)
    assert (last.operator, graph.tensors[last.output].source_layout) == ("linear", "NC")


def test_vector_input() -> None:
    graph = check(
        program_of(lambda x, f: fake(f(fake(x, INT8)), COARSE), Layer((9, 12)), shape=(12,)),
        torch.randn(50, 12),
    )
    assert graph.tensors[graph.inputs[0]].source_layout == "NC"


def test_activations_fold_into_limits() -> None:
    graph = check(
        program_of(lambda x, c: fake(nn.functional.relu6(c(fake(x, UINT8))), COARSE),
                   Layer((4, 3, 1, 1))),
        torch.randn(50, 3, 9, 8) * 2,
    )  # fmt: skip
    (node,) = graph.nodes
    assert isinstance(node, Conv) and (node.requant.low, node.requant.high) == (120, 168)


def test_requantized_activation_and_clamped_residual() -> None:
    """Scales that change without arithmetic become 1x1 pooling nodes, which are exact."""

    def function(x: Tensor, c: Layer) -> Tensor:
        x = fake(x, UINT8)
        y = fake(c(x), COARSE)
        z = fake(torch.relu(y), (0.05, 3, 0, 255, torch.uint8))
        return fake(torch.relu(y) + nn.functional.max_pool2d(z, 3, 1, 1), COARSE)

    graph = check(program_of(function, Layer((4, 3, 1, 1))), torch.randn(50, 3, 9, 8))
    kinds = [type(node) for node in graph.nodes]
    assert kinds.count(AvgPool) == 1 and kinds.count(MaxPool) == 2


def test_quantize_after_maximum_only() -> None:
    """Rounding commutes with a maximum, so a pooled result may be quantized after the pooling."""

    def function(x: Tensor, c: Layer) -> Tensor:
        return fake(torch.relu(nn.functional.max_pool2d(c(fake(x, UINT8)), 2)), COARSE)

    graph = check(program_of(function, Layer((4, 3, 1, 1))), torch.randn(50, 3, 9, 8))
    assert [type(node) for node in graph.nodes] == [Conv, MaxPool]


def test_names_survive_saving(tmp_path: Path) -> None:
    layers = (Layer((4, 3, 1, 1)), Layer((4, 4, 1, 1)))

    def twice(x: Tensor, a: Layer, b: Layer) -> Tensor:
        x = fake(b(fake(a(fake(x, UINT8)), COARSE)), COARSE)
        return fake(b(x), COARSE)

    program = program_of(twice, *layers)
    names = ("layers.0.conv2d", "layers.1.conv2d", "layers.1.conv2d_1")
    assert layer_names(program) == names
    torch.export.save(program, tmp_path / "q.pt2")
    loaded = load_program(tmp_path / "q.pt2")
    assert is_quantized(loaded) and layer_names(loaded) == names
    graph, again = import_program(program, "net"), import_program(loaded, "net")
    assert tuple(n.name for n in again.nodes) == names
    for a, b in zip(graph.nodes, again.nodes, strict=True):
        assert isinstance(a, Conv) and isinstance(b, Conv)
        assert (a.weights == b.weights).all() and (a.requant.constant == b.requant.constant).all()


def test_every_problem_is_listed_at_once() -> None:
    def function(x: Tensor, c: Layer) -> Tensor:
        y = torch.sigmoid(c(fake(x, UINT8)))
        z = torch.relu(c(x))
        w = fake(x, UINT8) * fake(c(fake(x, UINT8)), COARSE)
        return torch.softmax(fake(y, UINT8) + z, 1) + torch.cumsum(fake(x, UINT8), 1) + w

    with pytest.raises(FrontendError) as caught:
        import_program(program_of(function, Layer((3, 3, 1, 1))), "net")
    message = str(caught.value)
    for part in ("net: cannot", "sigmoid (sigmoid): its input is not quantized",
                 "mul (mul): a product of two activations",
                 "(conv2d): its input x is not quantized",
                 "cumsum (cumsum)"):  # fmt: skip
        assert part in message, message
    assert "softmax" not in message, "its operand is at fault, and reported"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x, c: c(fake(x, UINT8)), "its result is not quantized"),
        (lambda x, c: fake(fake(x, UINT8), UINT8), "an input of the model"),
        (lambda x, c: fake(fake(x, UINT8) + fake(c(fake(x, UINT8)), COARSE)[:, :1], UINT8),
         "differ in shape"),
        (lambda x, c: fake(fake(x, UINT8) + torch.arange(8.0), UINT8), "from pixel to pixel"),
        (lambda x, c: fake(fake(x, UINT8).mean(1), UINT8), "mean or maximum over anything but"),
        (lambda x, c: fake(torch.cat([fake(x, UINT8)] * 2, 2), UINT8), "only along the channels"),
        (lambda x, c: fake(c(torch.cat([fake(x, UINT8)] * 2, 0)), UINT8),
         "only along the channels"),
        (lambda x, c: fake(torch.softmax(fake(x, UINT8), 1), UINT8), "runs on the host"),
        (lambda x, c: torch.argmax(fake(c(fake(x, UINT8)), UINT8), 1, True), "left out of the"),
        (lambda x, c: fake(torch.log(fake(x, UINT8)), UINT8), "is not a number"),
        (lambda x, c: fake(nn.functional.prelu(fake(x, UINT8), c.bias), UINT8),
         "a parameter for each channel"),
        (lambda x, c: fake(nn.functional.interpolate(fake(x, UINT8), (13, 13)), UINT8),
         "only whole factors"),
        (lambda x, c: fake(fake(x, UINT8).reshape(x.shape[0] * 3, 1, 9, 8), UINT8), "the batch"),
        (lambda x, c: fake(nn.functional.pad(fake(x, UINT8), (1,) * 4, "reflect"), UINT8),
         "only padding with a constant"),
        (lambda x, c: fake(fake(x, UINT8).flip(2), UINT8), "operator not supported"),
        (
            lambda x, c: fake(c(nn.functional.relu6(fake(x, (0.7, 9, 0, 255, torch.uint8)))),
                              COARSE),
            "clamped at a value that is no code",
        ),
        (
            lambda x, c: fake(c(fake(x, (0.1, 0, -300, 300, torch.int16))), COARSE),
            "only uint8 and int8",
        ),
        (
            lambda x, c: fake(nn.functional.conv2d(fake(x, UINT8), c.bias.view(3, 1, 1, 1)
                                                   .expand(3, 3, 1, 1)), COARSE),
            "its weight is not quantized",
        ),
        (lambda x, c: fake(x, UINT8) + fake(x, COARSE), "the input is quantized twice"),
    ],
)  # fmt: skip
def test_refused(function: Callable[..., Tensor], message: str) -> None:
    with pytest.raises(FrontendError, match=message):
        import_program(program_of(function, Layer((3, 3, 1, 1))), "net")


def test_float_program() -> None:
    program = program_of(lambda x, c: torch.relu(x), Layer((3, 3, 1, 1)))
    assert not is_quantized(program)
    with pytest.raises(FrontendError, match="net: .*bitloop quantize"):
        import_program(program, "net")
