# SPDX-License-Identifier: Apache-2.0
"""Learned importance: larger for narrower widths and for layers that suffer more."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

from bitloop.dataset import Dataset
from bitloop.errors import DataError
from bitloop.frontend.torch_export import layer_names
from bitloop.programs import export_module
from bitloop.quantize.training import learned_importance
from bitloop.quantize.training.importance import Indicators


def test_digits(digits: tuple[ExportedProgram, Dataset, Dataset]) -> None:
    program, training, _ = digits
    seen: list[tuple[int, int]] = []
    before = {k: v.clone() for k, v in program.state_dict.items()}
    found = learned_importance(
        program, training, steps=6, progress=lambda *state: seen.append(state)
    )
    assert tuple(found) == layer_names(program) and seen == [(i + 1, 6) for i in range(6)]
    for row in found.values():
        assert list(row) == [8, 4, 2] and 0 < row[8] < row[4] < row[2]
    assert all(torch.equal(before[k], v) for k, v in program.state_dict.items())
    again = learned_importance(program, training, steps=6)
    assert again == found
    assert learned_importance(program, Dataset(training.x), steps=6) != found  # no labels: distils


def test_only_scales_learn_and_from_their_own_width() -> None:
    weight = torch.randn(4, 5)
    indicators = Indicators(weight, (4, 2))
    first = indicators.step.detach().clone()
    assert first.tolist() == pytest.approx(
        [2 * float(weight.abs().mean()) / 7**0.5, 2 * float(weight.abs().mean())]
    )
    for chosen in (0, 1):
        indicators.chosen = chosen
        indicators.step.grad = None
        indicators(weight).square().sum().backward()
        assert indicators.step.grad is not None
        assert indicators.step.grad[chosen] != 0 and indicators.step.grad[1 - chosen] == 0
        made = indicators.codes(weight) * indicators.scales(weight)[:, None]
        torch.testing.assert_close(indicators(weight), made)


def test_scales_grow_where_clipping_hurts() -> None:
    """Two layers alike but for one weight that all depends on: only its layer's scale grows."""
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = (nn.Conv2d(4, 4, 1) for _ in range(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.a(x) + self.b(x)).mean((2, 3))

    network = Net()
    with torch.no_grad():
        network.b.weight.copy_(network.a.weight)
        network.b.weight[0, 0] = 8.0
    x = np.random.default_rng(0).normal(size=(64, 4, 3, 3)).astype(np.float32) * 3
    first = {
        name: 2 * float(layer.weight.detach().abs().mean()) / 7**0.5
        for name, layer in network.named_children()
    }
    found = learned_importance(export_module(network.eval(), x), Dataset(x), (8, 4), steps=20)
    assert found["b"][4] > 1.05 * first["b"] and found["a"][4] < 1.05 * first["a"]


def test_bad_widths(program: ExportedProgram, data: Dataset) -> None:
    for widths in ((8,), (8, 8), (8, 1)):
        with pytest.raises(DataError):
            learned_importance(program, data, widths)
