# SPDX-License-Identifier: Apache-2.0
"""Post-training quantization: accuracy on digits, ranges, widths, weight scales, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.export import ExportedProgram

from bitloop.dataset import Dataset
from bitloop.demo.digits import load_digits, train
from bitloop.errors import DataError, FrontendError
from bitloop.frontend.torch_export import import_program
from bitloop.graph.execute import execute
from bitloop.graph.ir import Conv, Graph
from bitloop.quantize import calibrate, layer_names, quantize
from bitloop.quantize.weights import channel_scales, code_limits

WIDTHS = (8, 4, 2)


@pytest.fixture(scope="module")
def digits() -> tuple[ExportedProgram, Dataset, Dataset]:
    training, test = load_digits()
    torch.manual_seed(0)
    network = train(training, epochs=6).eval()
    batch = torch.export.Dim("batch", min=1, max=4096)
    example = (torch.from_numpy(training.x[:2]),)
    return torch.export.export(network, example, dynamic_shapes=({0: batch},)), training, test


def float_accuracy(program: ExportedProgram, data: Dataset) -> float:
    with torch.no_grad():
        scores = program.module()(torch.from_numpy(data.x)).numpy()
    return float((scores.argmax(1) == data.y).mean())


def integer_accuracy(graph: Graph, data: Dataset) -> float:
    source = graph.tensors[graph.inputs[0]]
    codes = np.clip(np.rint(data.x / source.scale) + source.zero_point, 0, 255)
    scores = execute(graph, {source.name: codes.astype(np.uint8).transpose(0, 2, 3, 1)})
    return float((scores[graph.outputs[0]][:, 0, 0].argmax(1) == data.y).mean())


def test_digits(digits: tuple[ExportedProgram, Dataset, Dataset]) -> None:
    """8 bits cost nothing, 4 bits little; the integer network scores what PyTorch's does."""
    program, training, test = digits
    reference = float_accuracy(program, test)
    assert reference > 0.9
    ranges = calibrate(program, training.x[:256])
    loss = {}
    for width in WIDTHS:
        quantized = quantize(program, training.x[:256], width, ranges=ranges)
        accuracy = integer_accuracy(import_program(quantized, "digits"), test)
        assert accuracy == pytest.approx(float_accuracy(quantized, test), abs=0.005)
        loss[width] = reference - accuracy
    assert loss[8] < 0.01 and loss[4] < 0.05
    assert loss[8] < loss[4] + 0.01 < loss[2] + 0.02


def test_widths_by_layer(digits: tuple[ExportedProgram, Dataset, Dataset]) -> None:
    program, training, _ = digits
    names = layer_names(program)
    assert names[0] == "stem.0" and names[-1] == "classifier"
    widths = dict(zip(names, (8, 2, 4, 3, 5, 4, 8), strict=True))
    del widths["classifier"]
    quantized = quantize(program, training.x[:8], widths)
    assert layer_names(quantized) == names
    graph = import_program(quantized, "digits")
    found = {n.name: n.bits for n in graph.nodes if isinstance(n, Conv)}
    expected = {name: {3: 4, 5: 8}.get(w, w) for name, w in (widths | {"classifier": 8}).items()}
    assert found == expected


def test_ranges_hold_zero_and_the_data(digits: tuple[ExportedProgram, Dataset, Dataset]) -> None:
    program, training, _ = digits
    done: list[tuple[int, int]] = []
    ranges = calibrate(program, training.x[:100], progress=lambda a, b: done.append((a, b)))
    assert done[-1] == (100, 100) and len(done) == 2
    assert ranges.ranges["x"] == (training.x[:100].min(), training.x[:100].max())
    for name, (low, high) in ranges.ranges.items():
        codes = ranges.parameters(name)
        scale, zero_point = codes.scale, codes.zero_point
        assert scale * -zero_point <= low + scale / 2 and high <= scale * (255.5 - zero_point)


def test_same_result_with_and_without_precomputed_ranges(
    digits: tuple[ExportedProgram, Dataset, Dataset],
) -> None:
    program, training, _ = digits
    x = training.x[:50]
    a = import_program(quantize(program, x, 4), "a")
    b = import_program(quantize(program, x, 4, ranges=calibrate(program, x)), "b")
    assert a.tensors == b.tensors
    for first, second in zip(a.nodes, b.nodes, strict=True):
        if isinstance(first, Conv) and isinstance(second, Conv):
            assert (first.weights == second.weights).all()
            assert (first.requant.constant == second.requant.constant).all()


@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.sampled_from(["normal", "cauchy", "tiny"]))
@settings(deadline=None, max_examples=40)
def test_weight_scales_are_at_least_as_good_as_the_largest_magnitude(
    seed: int, bits: int, kind: str
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.standard_cauchy((5, 27)) if kind == "cauchy" else rng.normal(size=(5, 27))
    weight = torch.from_numpy(values * (1e-9 if kind == "tiny" else 1)).to(torch.float32)
    weight[2] = 0
    low, high = code_limits(bits)

    def error(scales: torch.Tensor) -> torch.Tensor:
        s = scales.to(torch.float64)[:, None]
        return ((weight / s).round().clamp(low, high) * s - weight).square().sum(1)

    scales = channel_scales(weight, bits)
    assert scales.dtype == torch.float32 and (scales > 0).all() and scales[2] == 1
    naive = torch.where(weight.abs().amax(1) > 0, weight.abs().amax(1) / high, 1.0)
    assert (error(scales) <= error(naive) * (1 + 1e-4) + 1e-30).all()


def test_least_squares_scales_gain_clearly_at_2_and_4_bits(
    digits: tuple[ExportedProgram, Dataset, Dataset],
) -> None:
    """Why narrow weights are clipped: squared error of the digits network's own weights."""
    program, _, _ = digits
    for bits, gain in ((4, 0.9), (2, 0.75)):
        low, high = code_limits(bits)
        ours = naive = 0.0
        for weight in program.state_dict.values():
            if weight.ndim < 2:
                continue
            rows = weight.detach().reshape(weight.shape[0], -1)
            widest = rows.abs().amax(1) / high
            for scales, is_ours in ((channel_scales(weight, bits), True), (widest, False)):
                s = scales[:, None]
                error = float(((rows / s).round().clamp(low, high) * s - rows).square().sum())
                ours, naive = (ours + error, naive) if is_ours else (ours, naive + error)
        assert ours < gain * naive, (bits, ours / naive)


class Tiny(nn.Module):
    def __init__(self, static: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.fc = nn.Linear(48, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.flatten(torch.relu(self.conv(x)), 1))


def tiny(batch: int = 3) -> ExportedProgram:
    torch.manual_seed(2)
    return torch.export.export(Tiny().eval(), (torch.randn(batch, 2, 6, 6),))


def test_static_batch() -> None:
    """A program exported for exactly 3 images is calibrated 3 at a time, the rest repeated."""
    x = np.random.default_rng(0).normal(size=(7, 2, 6, 6)).astype(np.float32)
    ranges = calibrate(tiny(), x)
    one = calibrate(tiny(1), x)
    assert ranges.ranges.keys() == one.ranges.keys()
    for name, (low, high) in ranges.ranges.items():
        assert (low, high) == pytest.approx(one.ranges[name], rel=1e-5)
    assert import_program(quantize(tiny(), x), "tiny").inputs == ("x",)


def test_activation_after_pooling_and_dropout() -> None:
    """One scale for convolution, pooling and ReLU: no code is spent on what ReLU cuts off."""
    network = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.Dropout(), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(),
        nn.Linear(12, 4), nn.ReLU6(),
    ).eval()  # fmt: skip
    program = torch.export.export(network, (torch.randn(2, 2, 6, 6),))
    x = np.random.default_rng(0).normal(size=(8, 2, 6, 6)).astype(np.float32)
    graph = import_program(quantize(program, x), "pooled")
    assert [n.name for n in graph.nodes] == ["0", "2", "5"]
    assert all(graph.tensors[n.output].zero_point == 0 for n in graph.nodes)


def test_dead_layer() -> None:
    """All-zero weights and activations still quantize, and give the bias."""
    program = tiny()
    for name, tensor in program.state_dict.items():
        if name.startswith("conv"):
            tensor.data.zero_()
    x = np.ones((3, 2, 6, 6), np.float32)
    quantized = quantize(program, x)
    with torch.no_grad():
        expected = program.module()(torch.from_numpy(x)).numpy()
    graph = import_program(quantized, "dead")
    out = graph.tensors[graph.outputs[0]]
    codes = execute(graph, {"x": np.full((1, 6, 6, 2), 255, np.uint8)})[out.name][0, 0, 0]
    assert (
        np.abs((codes.astype(float) - out.zero_point) * out.scale - expected[0]).max() < out.scale
    )


GOOD = np.zeros((4, 2, 6, 6), np.float32)


@pytest.mark.parametrize(
    ("x", "weights", "message"),
    [
        (GOOD[:, :1], 8, r"shape \(images, 2, 6, 6\), not \(4, 1, 6, 6\)"),
        (GOOD[0], 8, r"shape \(images, 2, 6, 6\)"),
        (GOOD[:0], 8, "at least one image"),
        (np.where(np.arange(4)[:, None, None, None] == 2, np.nan, GOOD), 8, "image 2 holds"),
        (GOOD + np.inf, 8, "image 0 holds"),
        (GOOD.astype(str), 8, "must be numbers"),
        (GOOD, 9, "layer 'conv': weights must have 2 to 8 bits, not 9"),
        (GOOD, {"fc": 1}, "layer 'fc': weights must have 2 to 8 bits, not 1"),
        (GOOD, {"pool": 4}, "no layer 'pool'; layers: conv, fc"),
    ],
)
def test_bad_data(x: np.ndarray, weights: int | dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        quantize(tiny(), x, weights)


def test_unsuitable_programs() -> None:
    with pytest.raises(FrontendError, match="quantized already"):
        quantize(quantize(tiny(), GOOD), GOOD)

    class Strange(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn = nn.BatchNorm2d(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cumsum(x * torch.sigmoid(self.bn(x).mean((2, 3), True)), 1)

    program = torch.export.export(Strange().eval(), (torch.randn(2, 2, 6, 6),))
    with pytest.raises(FrontendError) as caught:
        quantize(program, GOOD)
    for part in ("cumsum (cumsum): operator not supported",
                 "mul (mul): a product of two activations"):  # fmt: skip
        assert part in str(caught.value)
