# SPDX-License-Identifier: Apache-2.0
"""Repairs of programs leave the float function alone; repairs of layers lower what they promise
to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

from bitloop.errors import DataError
from bitloop.frontend.program import BATCH_NORM, layer_names
from bitloop.frontend.torch_export import import_program
from bitloop.graph.execute import execute
from bitloop.graph.ir import Conv, Graph
from bitloop.quantize import calibrate, quantize, write_program
from bitloop.quantize.equalize import equalize, input_ranges, pairs
from bitloop.quantize.fold import fold_batch_norm, layer_constants
from bitloop.quantize.layer_repairs import learn_rounding, rounding
from bitloop.quantize.parameters import QuantizationParameters
from bitloop.quantize.points import folded_module
from bitloop.quantize.post_training import choose_parameters
from bitloop.quantize.repairs import LAYER_REPAIRS, REPAIRS, repair_parameters, repair_program
from bitloop.quantize.simulate import Both, Layer, Simulation, Site, simulate
from bitloop.quantize.split import _split, split_outliers
from bitloop.quantize.weights import squared_errors

Outputs = Callable[[ExportedProgram, np.ndarray], np.ndarray]


@pytest.mark.parametrize("repair", [fold_batch_norm, equalize, split_outliers])
def test_program_repairs_leave_the_function(
    repair: Callable[[ExportedProgram], ExportedProgram],
    chain: ExportedProgram, images: np.ndarray, outputs: Outputs,
) -> None:  # fmt: skip
    expected = outputs(chain, images)
    repaired = repair(chain)
    found = outputs(repaired, images)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    assert layer_names(repaired) == layer_names(chain)
    assert not any(node.target == BATCH_NORM for node in repaired.graph.nodes)
    assert np.array_equal(outputs(chain, images), expected), "the program given has changed"
    assert outputs(repaired, images[:5]).shape == (5, 6), "the batch is not dynamic any more"


def test_equalized_ranges_are_equal(chain: ExportedProgram) -> None:
    def ratios(program: ExportedProgram) -> dict[str, float]:
        module = folded_module(program)
        result = {}
        for a, b in pairs(module):
            first = layer_constants(module, a)[0]
            second = layer_constants(module, b)[0]
            groups = 12 if b.target != torch.ops.aten.linear.default and second.shape[1] == 1 else 1
            r1 = first.abs().flatten(1).amax(1)
            r2 = input_ranges(second, groups)
            result[f"{a.name}-{b.name}"] = float((r1 / r2).log().abs().max())
        return result

    before, after = ratios(chain), ratios(equalize(chain))
    assert list(before) == ["conv2d-conv2d_1", "conv2d_1-conv2d_2", "linear-linear_1"]
    assert min(before.values()) > 0.5 and max(after.values()) < 0.01


def test_equalization_helps_scales_per_tensor(
    chain: ExportedProgram, images: np.ndarray, outputs: Outputs
) -> None:
    expected = outputs(chain, images)

    def error(repairs: tuple[str, ...]) -> float:
        quantized = quantize(chain, images, 6, per_tensor=True, repairs=repairs)
        return float(((outputs(quantized, images) - expected) ** 2).mean())

    assert error(("equalize",)) < 0.7 * error(())


@pytest.mark.parametrize("bits", [8, 4])
def test_split_codes_add_up(bits: int) -> None:
    """Quantization-aware: the codes of the two halves sum to the code of the whole."""
    weight = torch.from_numpy(np.random.default_rng(bits).normal(size=(7, 9, 3, 3)))
    widened, copies = _split(weight, 1, bits)
    assert len(copies) == 1 and widened.shape == (7, 10, 3, 3)
    channel = copies[0]
    assert weight[:, channel].abs().max() == weight.abs().max()
    step = weight.abs().max() / ((1 << (bits - 1)) - 1)
    whole = torch.round(weight[:, channel] / step)
    halves = torch.round(widened[:, [channel, 9]] / step)
    clear = ((weight[:, channel] / step) % 1 - 0.5).abs() > 1e-6
    assert torch.equal(halves.sum(1)[clear], whole[clear])
    assert widened.abs().max() < weight.abs().max()


def test_splits_are_integers_too(
    chain: ExportedProgram, images: np.ndarray, outputs: Outputs
) -> None:
    """Duplicated and concatenated channels import and run as integers."""
    quantized = quantize(chain, images, 8, repairs=("split-outliers",))
    graph = import_program(quantized, "split", 31)
    source, target = graph.tensors[graph.inputs[0]], graph.tensors[graph.outputs[0]]
    codes = np.clip(np.rint(images / source.scale) + source.zero_point, 0, 255).astype(np.uint8)
    found = execute(graph, {source.name: codes.transpose(0, 2, 3, 1)})[target.name][:, 0, 0]
    expected = np.rint(outputs(quantized, images) / target.scale) + target.zero_point
    assert np.abs(found - expected).max() <= 1 and (found == expected).mean() > 0.97
    plain = import_program(quantize(chain, images, 8), "plain", 31)

    def inputs(whole: Graph) -> dict[str, int]:
        return {n.name: n.weights.shape[3] for n in whole.nodes if isinstance(n, Conv)}

    grown = {name: count - inputs(plain)[name] for name, count in inputs(graph).items()
             if name in inputs(plain)}  # fmt: skip
    assert grown == {"conv1": 1, "depthwise": 0, "conv2": 1, "conv3": 1, "hidden": 1,
                     "classifier": 1}  # fmt: skip


@pytest.fixture(scope="module")
def narrow(chain: ExportedProgram, images: np.ndarray) -> QuantizationParameters:
    bits = dict.fromkeys(layer_names(chain), 3)
    return choose_parameters(chain, bits, calibrate(chain, images))


def sites(
    chain: ExportedProgram, parameters: QuantizationParameters, images: np.ndarray
) -> list[Site]:
    found: list[Site] = []

    def look(site: Site) -> Layer:
        found.append(site)
        return site.layer

    module = folded_module(chain)
    with torch.no_grad():
        Both(module, Simulation(module, parameters)).run(torch.from_numpy(images), look)
    return found


def error(site: Site, layer: Layer) -> float:
    return float((site.output(layer) - site.exact_output).square().mean())


def test_simulation_is_the_written_program(
    chain: ExportedProgram, narrow: QuantizationParameters, images: np.ndarray, outputs: Outputs
) -> None:
    written = outputs(write_program(chain, narrow), images)
    found = simulate(chain, narrow, images)
    step = narrow.activations["linear_1"].scale
    assert np.abs(found - written).max() < 1.01 * step
    assert (np.abs(found - written) < 0.01 * step).mean() > 0.98
    real = simulate(chain, narrow, images, layers_only=True)
    codes = real / step
    assert np.abs(codes - np.rint(codes)).max() > 0.2, "outputs have been rounded"


def test_rounding_lowers_the_output_error(
    chain: ExportedProgram, narrow: QuantizationParameters, images: np.ndarray
) -> None:
    gains = []
    for site in sites(chain, narrow, images):
        learned = learn_rounding(site, 150, 0.01)
        before, after = error(site, site.layer), error(site, learned)
        assert after <= before
        gains.append(after / before)
        scaled = site.layer.weight / site.layer.broadcast(site.layer.scales)
        moved = (learned.codes - scaled).abs()
        clipped = (scaled < -4) | (scaled > 3)
        assert (moved < 1)[~clipped].all() and learned.codes.min() >= -4
        assert (learned.codes == learned.codes.round()).all() and learned.codes.max() <= 3
    assert np.mean(gains) < 0.8


@pytest.mark.parametrize("name", ["bias-correction", "batch-norm"])
def test_statistics_are_the_float_networks(
    name: str, chain: ExportedProgram, narrow: QuantizationParameters, images: np.ndarray
) -> None:
    for site in sites(chain, narrow, images):
        layer = LAYER_REPAIRS[name](site)
        axis = 1 if site.exact_output.ndim == 4 else -1
        exact = site.exact_output.movedim(axis, 0).flatten(1)
        found = site.output(layer).movedim(axis, 0).flatten(1)
        assert torch.allclose(found.mean(1), exact.mean(1), atol=1e-4)
        if name == "batch-norm":
            alike = (layer.scales / site.layer.scales - 1).abs() < 0.99
            assert torch.allclose(found.std(1)[alike], exact.std(1)[alike], rtol=0.02, atol=1e-5)
        assert torch.equal(layer.codes, site.layer.codes)


def test_no_dead_or_shift_only_channel_is_scaled(
    chain: ExportedProgram, narrow: QuantizationParameters, images: np.ndarray
) -> None:
    powers = {n: np.exp2(np.round(np.log2(s))) for n, s in narrow.weight_scales.items()}
    for site in sites(chain, dataclasses.replace(narrow, weight_scales=powers), images):
        assert torch.equal(LAYER_REPAIRS["batch-norm"](site).scales, site.layer.scales)


def test_repairs_compose(chain: ExportedProgram, images: np.ndarray, outputs: Outputs) -> None:
    """All together beat none; the written program has the repaired integers."""
    expected = outputs(chain, images)
    errors = {}
    for repairs in ((), ("equalize", "rounding", "bias-correction")):
        found = outputs(quantize(chain, images, 3, repairs=repairs), images)
        errors[repairs] = float(((found - expected) ** 2).mean())
    plain, repaired = errors.values()
    assert repaired < 0.6 * plain


def test_repaired_parameters_are_complete(
    chain: ExportedProgram, narrow: QuantizationParameters, images: np.ndarray
) -> None:
    seen: list[str] = []
    repaired = repair_parameters(chain, narrow, images, ("batch-norm",), seen.append)
    assert tuple(seen) == layer_names(chain)
    assert set(repaired.weight_codes) == set(seen) == set(repaired.biases)
    assert not np.array_equal(repaired.weight_scales["conv1"], narrow.weight_scales["conv1"])
    same = [n for n in seen if np.array_equal(repaired.weight_scales[n], narrow.weight_scales[n])]
    assert same == seen[1:], "layers without batch-norm have been scaled"
    assert repair_parameters(chain, narrow, images, ("equalize",)) is narrow


def test_static_batch() -> None:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)).eval()
    program = torch.export.export(network, (torch.randn(3, 2, 6, 6),))
    x = np.random.default_rng(0).normal(size=(7, 2, 6, 6)).astype(np.float32)
    graph = import_program(quantize(program, x, 4, repairs=REPAIRS), "net")
    assert [node.name for node in graph.nodes][-1] == "3"


def test_unknown_repairs(chain: ExportedProgram, images: np.ndarray) -> None:
    with pytest.raises(DataError, match="repair 'magic' must be one of fold-batch-norm, equalize"):
        quantize(chain, images, repairs=("magic",))
    with pytest.raises(DataError, match="repair 'magic'"):
        repair_program(chain, ["magic"], {})


def test_rounding_of_a_layer_that_is_exact() -> None:
    """Nothing to gain: the codes stay."""
    torch.manual_seed(0)
    program = torch.export.export(nn.Conv2d(1, 2, 1).eval(), (torch.randn(4, 1, 2, 2),))
    module = folded_module(program)
    node = next(n for n in module.graph.nodes if "conv2d" in n.name)
    weight = torch.tensor([[[[1.0]]], [[[-2.0]]]])
    layer = Layer("c", 4, weight, 0, weight.clone(), torch.ones(2), None)
    x = torch.randn(8, 1, 2, 2)

    def compute(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None) -> torch.Tensor:
        return torch.conv2d(x, w, b)

    site = Site(node, layer, compute(x, weight, None), x, compute)
    assert torch.equal(rounding(20)(site).codes, weight)
    assert float(squared_errors(weight.flatten(1), layer.scales, -8, 7).sum()) == 0
