# SPDX-License-Identifier: Apache-2.0
"""Given parameters are what the quantized program holds: codes, scales, biases; bad ones are
refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

from bitloop.errors import DataError
from bitloop.frontend.program import weighted_layers
from bitloop.frontend.torch_export import import_program
from bitloop.graph.execute import execute
from bitloop.graph.ir import Conv
from bitloop.quantize import ActivationParameters, QuantizationParameters, write_program
from bitloop.quantize.points import activation_points, folded_module
from bitloop.quantize.weights import code_limits
from bitloop.quantize.write import attribute

BITS = {"0": 4, "3": 3, "5": 8, "7": 2}


def program() -> ExportedProgram:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        nn.ConvTranspose2d(6, 4, 2, groups=2), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4),
        nn.Flatten(), nn.Linear(36, 5, bias=False),
    ).eval()  # fmt: skip
    return torch.export.export(network, (torch.randn(2, 2, 6, 6),))


def given(network: ExportedProgram, seed: int) -> QuantizationParameters:
    """Random scales, codes and biases for everything."""
    rng = np.random.default_rng(seed)
    module = folded_module(network)
    activations = {
        node.name: ActivationParameters(
            float(np.float32(rng.uniform(0.01, 0.05))), int(rng.integers(0, 256))
        )
        for node in activation_points(module)
    }
    scales, codes, biases = {}, {}, {}
    for node, name in weighted_layers(module.graph.nodes).items():
        weight = attribute(module, node.args[1])
        assert weight is not None
        low, high = code_limits(BITS[name])
        channels = 2 if name == "3" else weight.shape[0]
        scales[name] = rng.uniform(0.01, 0.1, channels).astype(np.float32)
        codes[name] = rng.integers(low, high + 1, weight.shape, dtype=np.int8)
        outputs = 4 if name == "3" else weight.shape[0]
        biases[name] = rng.normal(size=outputs).astype(np.float32)
    return QuantizationParameters(activations, BITS, scales, codes, biases)


def test_given_integers_are_written() -> None:
    network = program()
    state = {name: value.clone() for name, value in network.state_dict.items()}
    parameters = given(network, 1)
    quantized = write_program(network, parameters)
    for name, value in network.state_dict.items():
        assert torch.equal(value, state[name]), "the float program has changed"
    assert not any(v.is_floating_point() and v.ndim > 1 for v in quantized.state_dict.values()), (
        "float weights are kept beside their codes"
    )
    graph = import_program(quantized, "net")
    for node in graph.nodes:
        if isinstance(node, Conv) and node.name in ("0", "5", "7"):
            codes = parameters.weight_codes[node.name]
            expected = codes.reshape(codes.shape[0], -1)
            if codes.ndim == 4:
                expected = codes.transpose(0, 2, 3, 1).reshape(codes.shape[0], -1)
                assert (node.weights.reshape(expected.shape) == expected).all()
            assert (np.sort(node.weights.reshape(expected.shape)) == np.sort(expected)).all()
    scales = sorted(spec.scale for spec in graph.tensors.values())
    expected_scales = sorted(a.scale for a in parameters.activations.values())
    assert scales == expected_scales
    x = np.random.default_rng(0).normal(size=(2, 2, 6, 6)).astype(np.float32)
    with torch.no_grad():
        real = quantized.module()(torch.from_numpy(x)).numpy()
    source, target = graph.tensors[graph.inputs[0]], graph.tensors[graph.outputs[0]]
    inputs = np.clip(np.rint(x / source.scale) + source.zero_point, 0, 255).astype(np.uint8)
    result = execute(graph, {source.name: inputs.transpose(0, 2, 3, 1)})[target.name][:, 0, 0]
    codes = np.rint(real / target.scale) + target.zero_point
    assert np.abs(result - codes).max() <= 1 and (result == codes).mean() > 0.8


def test_codes_without_biases_leave_the_folded_bias() -> None:
    network = program()
    parameters = dataclasses.replace(given(network, 2), biases={})
    graph = import_program(write_program(network, parameters), "net")
    assert {n.name: n.bits for n in graph.nodes if isinstance(n, Conv)} == {
        "0": 4, "3": 4, "5": 8, "7": 2
    }  # fmt: skip


def changed(name: str, key: str, value: Any) -> Callable[[QuantizationParameters], Any]:
    def change(parameters: QuantizationParameters) -> QuantizationParameters:
        entries = dict(getattr(parameters, name))
        if value is None:
            del entries[key]
        else:
            entries[key] = value
        return dataclasses.replace(parameters, **{name: entries})

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed("bits", "9", 4), "no layer '9'; layers: 0, 3, 5, 7"),
        (changed("bits", "5", 9), "layer '5': weights must have 2 to 8 bits, not 9"),
        (changed("weight_scales", "0", None), "layer '0' has no quantization parameters"),
        (changed("weight_scales", "0", np.ones(5, np.float32)), "6 weight scales are needed"),
        (changed("weight_scales", "0", np.zeros(6, np.float32)), "positive, finite"),
        (changed("activations", "x", ActivationParameters(1.0, 0)), "no activation 'x'"),
        (changed("weight_codes", "7", np.full((5, 36), 2)), r"codes 2..2 exceed the -1..1"),
        (changed("weight_codes", "7", np.ones((5, 35), int)), r"must have the shape \(5, 36\)"),
        (changed("weight_codes", "7", np.ones((5, 36))), "must be integers, not float64"),
        (changed("biases", "3", np.zeros(2)), r"a bias must have the shape \(4,\), not \(2,\)"),
        (changed("biases", "3", np.full(4, np.nan)), "not finite"),
    ],
)
def test_bad_parameters(change: Callable[[Any], Any], message: str) -> None:
    network = program()
    with pytest.raises(DataError, match=message):
        write_program(network, change(given(network, 0)))


@pytest.mark.parametrize(
    ("scale", "zero_point", "low", "high", "message"),
    [
        (0.0, 0, 0, 255, "scale must be positive"),
        (float("inf"), 0, 0, 255, "scale must be positive"),
        (1.0, 16, 0, 15, "low <= zero-point <= high"),
        (1.0, 0, 0, 256, "codes 0..256"),
    ],
)
def test_bad_activations(scale: float, zero_point: int, low: int, high: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ActivationParameters(scale, zero_point, low, high)
