# SPDX-License-Identifier: Apache-2.0
"""Learned importance of layers (LIMPQ): one scale a layer and width, all trained jointly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from ...dataset import Dataset
from ...errors import DataError
from ..calibration import calibrate, check_images
from ..points import single_input
from ..post_training import layer_names
from ..weights import WIDTHS, code_limits
from .activation_quantizers import ActivationQuantizer
from .batches import Batches
from .functions import LearnedStep, rounded_codes
from .losses import classification, distillation
from .methods import Method
from .network import float_network, takes_any_batch, training_network
from .weight_quantizers import LEAST_SCALE, WeightQuantizer

CALIBRATION_IMAGES = 256


class Indicators(WeightQuantizer):
    """LSQ with one scale for the whole layer at each of several widths; `chosen` is in use. They
    begin at 2 mean|w| / sqrt(high), as LSQ's."""

    def __init__(self, weight: Tensor, widths: Sequence[int]) -> None:
        super().__init__(weight, max(widths), True)
        self.widths = tuple(widths)
        highs = [code_limits(width)[1] for width in self.widths]
        mean = float(weight.abs().mean())
        first = [max(2 * mean / math.sqrt(high), LEAST_SCALE) for high in highs]
        self.step = nn.Parameter(torch.tensor(first))
        self.gradient_scales = [1 / math.sqrt(weight.numel() * high) for high in highs]
        self.chosen = 0

    def forward(self, weight: Tensor) -> Tensor:
        low, high = code_limits(self.widths[self.chosen])
        return LearnedStep.apply(
            weight, self.step[self.chosen], low, high, self.gradient_scales[self.chosen]
        )

    def codes(self, weight: Tensor) -> Tensor:
        low, high = code_limits(self.widths[self.chosen])
        return rounded_codes(weight, self.step[self.chosen].detach(), low, high)

    def scales(self, weight: Tensor) -> Tensor:
        return self.step[self.chosen].detach().expand(weight.shape[0])

    def constrain(self) -> None:
        self.step.data.clamp_(min=LEAST_SCALE)


def learned_importance(
    program: ExportedProgram,
    data: Dataset,
    widths: Sequence[int] = (8, 4, 2),
    *,
    steps: int = 60,
    batch: int = 64,
    rate: float = 0.01,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, steps: None,
) -> dict[str, dict[int, float]]:
    """By layer and width: the quantizer's scale after joint training of all of them, which is the
    larger the more a layer suffers from that width (Tang et al., Mixed-Precision Neural Network
    Quantization via Learned Layer-wise Importance, ECCV 2022, Section 3).

    Each step adds up the gradients of one forward pass with all layers at each width and one with
    widths drawn at random, as the paper's; only scales are updated. Unlike the paper's, weights
    stay as they are, so that a few hundred images and a minute do, and activations have 8 bits of
    fixed range. The loss is the labels' cross entropy, without labels the divergence from the float
    network's output. Scales belong to weights before batch-norm is folded in.

    `steps` of `batch` images; `progress(done, steps)`. Raises `FrontendError` for a program that
    cannot be quantized, `DataError` for unsuitable data or widths.
    """
    names = layer_names(program)
    if len(set(widths)) != len(widths) or len(widths) < 2 or not set(widths) <= set(WIDTHS):
        raise DataError(f"widths: two or more different ones of 2 to 8, not {tuple(widths)}")
    if steps < 1 or batch < 1:
        raise DataError(f"steps and batch must be 1 or more, not {steps} and {batch}")
    data = Dataset(check_images(program, data.x), data.y)
    indicators: list[Indicators] = []

    def indicator(weight: Tensor, bits: int, normalized: bool) -> WeightQuantizer:
        indicators.append(Indicators(weight, widths))
        return indicators[-1]

    network = training_network(
        program, dict.fromkeys(names, max(widths)), Method(indicator, ActivationQuantizer),
        calibrate(program, data.x[:CALIBRATION_IMAGES]),
    )  # fmt: skip
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    for one in indicators:
        one.step.requires_grad_(True)
    if not takes_any_batch(network, program):
        batch = int(single_input(program).meta["val"].shape[0])
    batches = Batches(data, batch, "none", seed)
    if batches.batch < 2:
        network.freeze_statistics()
    teacher = float_network(program) if data.y is None else None
    optimizer = torch.optim.SGD([one.step for one in indicators], rate, momentum=0.9)
    rng = np.random.default_rng(seed)
    network.train()
    for step in range(steps):
        x, y = batches(step)
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad()
        with torch.no_grad():
            target = None if teacher is None else teacher(x)
        drawn = rng.integers(0, len(widths), len(indicators)).tolist()
        for choice in (*([i] * len(indicators) for i in range(len(widths))), drawn):
            for one, index in zip(indicators, choice, strict=True):
                one.chosen = index
            output = network(x)
            loss = (
                classification(output, y)
                if y is not None
                else distillation(output, _known(target), 1.0)
            )
            loss.backward()
        optimizer.step()
        network.constrain()
        progress(step + 1, steps)
    found = {}
    for name, one in zip(names, indicators, strict=True):
        found[name] = dict(zip(one.widths, map(float, one.step.detach()), strict=True))
    return found


def _known(target: Tensor | None) -> Tensor:
    assert target is not None
    return target
