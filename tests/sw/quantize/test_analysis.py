# SPDX-License-Identifier: Apache-2.0
"""SQNR and MSE of layers against direct computation; accuracy by the golden model."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

from bitloop.frontend.program import layer_names
from bitloop.frontend.torch_export import import_program
from bitloop.quantize import calibrate, write_program
from bitloop.quantize.analysis import as_json, integer_accuracy, integer_outputs, layer_errors
from bitloop.quantize.parameters import QuantizationParameters
from bitloop.quantize.post_training import choose_parameters
from bitloop.quantize.simulate import simulate


def parameters(program: ExportedProgram, x: np.ndarray, bits: int) -> QuantizationParameters:
    widths = dict.fromkeys(layer_names(program), bits)
    return choose_parameters(program, widths, calibrate(program, x))


def test_last_layer_is_the_networks_output(chain: ExportedProgram, images: np.ndarray) -> None:
    found = {e.layer: e for e in layer_errors(chain, parameters(chain, images, 4), images)}
    assert set(found) == set(layer_names(chain))
    with torch.no_grad():
        exact = chain.module()(torch.from_numpy(images)).numpy().astype(np.float64)
    noise = (simulate(chain, parameters(chain, images, 4), images) - exact) ** 2
    assert found["classifier"].mse == pytest.approx(noise.mean(), rel=1e-4)
    expected = 10 * math.log10((exact**2).sum() / noise.sum())
    assert found["classifier"].sqnr == pytest.approx(expected, rel=1e-4)


def test_worst_first_and_better_with_more_bits(chain: ExportedProgram, images: np.ndarray) -> None:
    errors = {bits: layer_errors(chain, parameters(chain, images, bits), images)
              for bits in (2, 4, 8)}  # fmt: skip
    for listed in errors.values():
        assert [e.sqnr for e in listed] == sorted(e.sqnr for e in listed)
    by_name = {bits: {e.layer: e for e in listed} for bits, listed in errors.items()}
    for name in layer_names(chain):
        two, four, eight = (by_name[bits][name] for bits in (2, 4, 8))
        assert two.weight_sqnr + 6 < four.weight_sqnr < eight.weight_sqnr - 12
        assert two.sqnr < four.sqnr < eight.sqnr and two.bits == 2
    assert min(e.sqnr for e in errors[8]) > 20


def test_one_narrow_layer_stands_out(chain: ExportedProgram, images: np.ndarray) -> None:
    given = parameters(chain, images, 8)
    narrow = parameters(chain, images, 2)
    mixed = dataclasses.replace(
        given, bits={**given.bits, "hidden": 2},
        weight_scales={**given.weight_scales, "hidden": narrow.weight_scales["hidden"]},
    )  # fmt: skip
    errors = layer_errors(chain, mixed, images)
    assert {errors[0].layer, errors[1].layer} == {"hidden", "classifier"}


def test_json_has_no_infinity(chain: ExportedProgram) -> None:
    network = nn.Conv2d(1, 1, 1, bias=False)
    with torch.no_grad():
        network.weight.fill_(127.0)
    program = torch.export.export(network.eval(), (torch.randn(3, 1, 2, 2),))
    x = np.zeros((5, 1, 2, 2), np.float32)
    (error,) = layer_errors(program, parameters(program, x, 8), x)
    assert error.weight_sqnr == math.inf and error.mse == 0
    assert json.loads(json.dumps(as_json(error)))["weight_sqnr_db"] is None


def test_accuracy_is_pytorchs(chain: ExportedProgram, images: np.ndarray) -> None:
    written = write_program(chain, parameters(chain, images, 8))
    graph = import_program(written, "net", 31)
    x = np.concatenate([images] * 5)  # several batches, the last one smaller
    with torch.no_grad():
        expected = written.module()(torch.from_numpy(x)).numpy()
    found = integer_outputs(graph, x)
    assert (np.abs(found - expected) < 1e-5).mean() > 0.99
    labels = expected.argmax(1)
    assert integer_accuracy(graph, x, labels) > 0.98
    assert integer_accuracy(graph, x, (labels + 1) % 6) < 0.02
