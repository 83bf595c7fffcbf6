# SPDX-License-Identifier: Apache-2.0
"""Power-of-two scales: multipliers are powers of two, and the golden model equals PyTorch on every
code, ties included; narrow activations run as codes of the core."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

from bitloop.frontend.torch_export import import_program
from bitloop.graph.execute import execute
from bitloop.graph.ir import Conv
from bitloop.quantize import ActivationScheme, quantize


def program() -> ExportedProgram:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(),
        nn.Conv2d(8, 12, 1), nn.Flatten(), nn.Linear(12 * 36, 5),
    ).eval()  # fmt: skip
    return torch.export.export(network, (torch.randn(40, 3, 8, 8),))


X = np.random.default_rng(0).normal(size=(40, 3, 8, 8)).astype(np.float32)


def differing(quantized: ExportedProgram, share: float, multiplier_bits: int = 31) -> None:
    """At most `share` of the golden model's output codes differ from PyTorch's."""
    graph = import_program(quantized, "net", multiplier_bits)
    source, target = graph.tensors[graph.inputs[0]], graph.tensors[graph.outputs[0]]
    with torch.no_grad():
        real = quantized.module()(torch.from_numpy(X)).numpy()
    low, high = next(
        (int(n.args[3]), int(n.args[4]))  # type: ignore[arg-type]
        for n in quantized.graph.nodes if "quantize_per_tensor" in str(n.target)
    )  # fmt: skip
    codes = np.clip(np.rint(X / source.scale) + source.zero_point, low, high).astype(np.uint8)
    found = execute(graph, {source.name: codes.transpose(0, 2, 3, 1)})[target.name][:, 0, 0]
    expected = np.rint(real / target.scale) + target.zero_point
    assert low <= found.min() and found.max() <= high
    assert (found != expected).mean() <= share and np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("bits", [8, 4])
def test_shift_only(bits: int) -> None:
    quantized = quantize(program(), X, bits, scheme=ActivationScheme(power_of_two=True))
    graph = import_program(quantized, "net")
    for spec in graph.tensors.values():
        assert np.log2(spec.scale) % 1 == 0
    for node in graph.nodes:
        assert isinstance(node, Conv)
        multiplier = node.requant.multiplier
        assert (multiplier & (multiplier - 1) == 0).all() and node.requant.half_even
    differing(quantized, 0.0)
    differing(quantized, 0.0, 16)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [5, 4, 2])
def test_narrow_activations(bits: int, symmetric: bool) -> None:
    quantized = quantize(program(), X, bits, scheme=ActivationScheme(bits, symmetric))
    differing(quantized, 0.01)
