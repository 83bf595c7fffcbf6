# SPDX-License-Identifier: Apache-2.0
"""The loop: it mends what narrow weights cost, stops, resumes, repeats, and says what is wrong."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

from bitloop.dataset import Dataset
from bitloop.errors import DataError
from bitloop.programs import export_module
from bitloop.quantize import layer_names, quantize
from bitloop.quantize.training import State, TrainingOptions, train
from bitloop.quantize.training.batches import Batches, augmented
from bitloop.quantize.training.losses import classification, distillation
from bitloop.quantize.training.score import float_accuracy, integer_accuracy
from bitloop.quantize.training.trainer import Training, learning_rate

SHORT = TrainingOptions(epochs=3, batch=16, threads=1, frozen=0.4)


def trained(
    program: ExportedProgram,
    data: Dataset,
    options: TrainingOptions,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: Callable[[State], None] = lambda state: None,
) -> tuple[Training, bool]:
    """A training of 4-bit weights that has run, and whether to its end."""
    torch.manual_seed(options.seed)
    training = Training(program, data, dict.fromkeys(layer_names(program), 4), options)
    return training, training.run(checkpoint, resume, progress)


def same(a: Training, b: Training) -> bool:
    """Weights, scales, statistics and momenta, bit by bit."""
    first, second = a.tensors(), b.tensors()
    return a.losses == b.losses and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("labelled", [True, False])
def test_training_mends_two_bit_digits(
    labelled: bool, digits: tuple[ExportedProgram, Dataset, Dataset]
) -> None:
    """Post-training quantization to 2 bits destroys the network; two epochs bring it back, with
    labels or by distillation without."""
    program, training, test = digits
    before = float_accuracy(quantize(program, training.x[:256], 2), test)
    if not labelled:
        training = Dataset(training.x)
    options = TrainingOptions(epochs=2, batch=32, threads=1, distill=not labelled)
    result = train(program, training, 2, options)
    after = integer_accuracy(result.program, test)
    assert before < 0.6 and after > 0.9 and after > float_accuracy(program, test) - 0.05
    assert result.losses[-1] < result.losses[0]


@pytest.mark.parametrize(
    "changes", [{"sharpness": 0.05}, {"auxiliary": True}, {"augmentation": "mirror-shift"}]
)
def test_options_change_the_training(
    changes: dict[str, object], program: ExportedProgram, data: Dataset
) -> None:
    plain, _ = trained(program, data, SHORT)
    changed, _ = trained(program, data, dataclasses.replace(SHORT, **changes))  # type: ignore[arg-type]
    assert not same(plain, changed)
    before, after = plain.network.state_dict(), changed.network.state_dict()
    assert before.keys() == after.keys()  # nothing else comes along
    assert not torch.equal(
        before["module._trained.layer0.weight"], after["module._trained.layer0.weight"]
    )


@pytest.mark.parametrize(
    ("stop", "changes"),
    [(1, {}), (3, {"auxiliary": True, "sharpness": 0.02, "distill": True}), (7, {})],
)
def test_a_resumed_training_ends_as_an_uninterrupted_one(
    stop: int, changes: dict[str, object], program: ExportedProgram, data: Dataset, tmp_path: Path
) -> None:
    """Ctrl-C after a step, in the middle of an epoch, at its end, once statistics are frozen."""
    options = dataclasses.replace(SHORT, **changes)  # type: ignore[arg-type]
    whole, _ = trained(program, data, options)
    path = tmp_path / "c"

    def interrupt(state: State) -> None:
        if state.step == stop:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    part, finished = trained(program, data, options, path, progress=interrupt)
    assert signal.getsignal(signal.SIGINT) is before
    assert not finished and part.step == stop and path.is_file()
    steps: list[int] = []
    rest, finished = trained(
        program, data, options, path, True, lambda state: steps.append(state.step)
    )
    assert finished and steps == list(range(stop + 1, 10))
    assert same(rest, whole)
    again, finished = trained(program, data, options, path, True)
    assert finished and again.step == 9 and same(again, whole)  # nothing was left to do


def test_same_seed_same_network(program: ExportedProgram, data: Dataset) -> None:
    first, _ = trained(program, data, SHORT)
    assert same(first, trained(program, data, SHORT)[0])
    assert not same(first, trained(program, data, dataclasses.replace(SHORT, seed=1))[0])


def test_minutes_end_the_training(program: ExportedProgram, data: Dataset) -> None:
    options = dataclasses.replace(SHORT, epochs=10_000, minutes=1 / 60)
    states: list[State] = []
    result = train(program, data, 4, options, progress=states.append)
    assert result.finished and 1.0 <= result.seconds < 10.0 and result.steps < 30_000
    fractions = [state.fraction for state in states]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert states[-1].seconds_left == 0.0 and states[0].seconds_left <= 1.0


@pytest.mark.parametrize("flexible", [True, False])
def test_fixed_batch(flexible: bool) -> None:
    """A program exported for two images at a time trains on more if its shapes allow, else on
    two."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3)
            self.bn = nn.BatchNorm2d(4)
            self.fc = nn.Linear(16, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.bn(self.conv(x)))
            return self.fc(torch.flatten(x, 1) if flexible else x.reshape(2, 16))

    torch.manual_seed(0)
    program = torch.export.export(Net().eval(), (torch.randn(2, 1, 4, 4),))
    rng = np.random.default_rng(0)
    data = Dataset(rng.normal(size=(32, 1, 4, 4)).astype(np.float32), rng.integers(0, 3, 32))
    result = train(program, data, 4, dataclasses.replace(SHORT, epochs=1))
    assert result.steps == (2 if flexible else 16)
    assert 0 <= integer_accuracy(result.program, data) <= 1
    if not flexible:
        with pytest.raises(DataError, match="exported for 2 images at a time"):
            train(program, data.take(slice(1)), 4, SHORT)


def test_batches_hold_every_image_once_an_epoch(data: Dataset) -> None:
    batches = Batches(data, 16, "none", 0)
    assert batches.steps == 3
    first = [batches(step) for step in range(6)]
    for epoch in (first[:3], first[3:]):
        x = np.concatenate([x.numpy() for x, _ in epoch])
        assert sorted(x.sum((1, 2, 3))) == sorted(data.x.sum((1, 2, 3)))
    assert not torch.equal(first[0][0], first[3][0])
    again = Batches(data, 16, "none", 0)(4)
    assert torch.equal(again[0], first[4][0]) and torch.equal(again[1], first[4][1])


def test_augmentation() -> None:
    x = torch.arange(2 * 8 * 8, dtype=torch.float32).reshape(2, 1, 8, 8) + 1
    seen = set()
    for seed in range(40):
        y = augmented(x, "mirror-shift", torch.Generator().manual_seed(seed))
        assert y.shape == x.shape
        for image, original in zip(y, x, strict=True):
            candidates = {
                (mirrored, down, right)
                for mirrored in (False, True)
                for down in (-1, 0, 1)
                for right in (-1, 0, 1)
                if torch.equal(image, _moved(original, mirrored, down, right))
            }
            assert len(candidates) == 1
            seen |= candidates
    assert len(seen) > 12
    assert augmented(x, "none", torch.Generator()) is x
    flat = torch.ones(4, 10)
    assert augmented(flat, "shift", torch.Generator()) is flat


def _moved(image: torch.Tensor, mirrored: bool, down: int, right: int) -> torch.Tensor:
    image = image.flip(2) if mirrored else image
    result = torch.zeros_like(image)
    rows, columns = (slice(max(d, 0), 8 + min(d, 0)) for d in (down, right))
    from_rows, from_columns = (slice(max(-d, 0), 8 + min(-d, 0)) for d in (down, right))
    result[:, rows, columns] = image[:, from_rows, from_columns]
    return result


def test_losses() -> None:
    rng = np.random.default_rng(0)
    output, teacher = rng.normal(size=(2, 6, 4))
    p = np.exp(teacher / 3) / np.exp(teacher / 3).sum(1, keepdims=True)
    q = np.exp(output / 3) / np.exp(output / 3).sum(1, keepdims=True)
    expected = 9 * (p * np.log(p / q)).sum(1).mean()
    found = distillation(torch.tensor(output), torch.tensor(teacher), 3.0)
    assert float(found) == pytest.approx(expected)
    assert float(distillation(torch.tensor(teacher), torch.tensor(teacher), 3.0)) == (
        pytest.approx(0, abs=1e-12)
    )
    maps = torch.tensor(rng.normal(size=(2, 3, 4, 4)))
    assert float(distillation(2 * maps, maps, 3.0)) == pytest.approx(1.0)
    with pytest.raises(DataError, match=r"labels 0\.\.4: must be 0\.\.3"):
        classification(torch.tensor(output), torch.tensor([0, 1, 2, 3, 4, 0]))
    with pytest.raises(DataError, match="scores of classes"):
        classification(torch.zeros(6, 1), torch.zeros(6, dtype=torch.int64))


def test_learning_rate() -> None:
    rates = [learning_rate(f) for f in np.linspace(0, 1, 101)]
    peak = int(np.argmax(rates))
    assert 0 < rates[0] < 0.1 and 0.98 < rates[peak] <= 1 and rates[-1] < 1e-9 and peak == 5
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "xnor"}, "no training method 'xnor'; there are ste, lsq"),
        ({"epochs": 0}, "epochs: must be 1 to"),
        ({"rate": float("nan")}, "rate: must be"),
        ({"minutes": 0.0}, "minutes: must be above 0"),
        ({"augmentation": "cutout"}, "no augmentation 'cutout'"),
        ({"activation_bits": 9}, "activation_bits: must be 2 to 8, not 9"),
    ],
)
def test_bad_options(
    changes: dict[str, object], message: str, program: ExportedProgram, data: Dataset
) -> None:
    with pytest.raises(DataError, match=message):
        train(program, data, 4, dataclasses.replace(SHORT, **changes))  # type: ignore[arg-type]


def test_bad_data(program: ExportedProgram, data: Dataset) -> None:
    with pytest.raises(DataError, match="no labels y; give them, or distill"):
        train(program, Dataset(data.x), 4, SHORT)
    with pytest.raises(DataError, match=r"shape \(images, 3, 8, 8\)"):
        train(program, Dataset(data.x[:, :2], data.y), 4, SHORT)
    with pytest.raises(DataError, match=r"must be 0\.\.4"):
        train(program, Dataset(data.x, data.y + 3), 4, SHORT)  # type: ignore[operator]
    with pytest.raises(DataError, match="loss is nan at step [0-9]*: take a lower rate than 0.01"):
        train(program, Dataset(data.x * np.float32(1e30), data.y), 4, SHORT)
    with pytest.raises(DataError, match="no layer 'nothing'"):
        train(program, data, {"nothing": 4}, SHORT)

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(torch.relu(self.conv(x))).mean((2, 3))

    with pytest.raises(DataError, match="layer 'conv' shares its weights"):
        train(export_module(Shared(), data.x), data, 4, SHORT)
