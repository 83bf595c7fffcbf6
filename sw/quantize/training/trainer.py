# SPDX-License-Identifier: Apache-2.0
"""Quantization-aware training: one loop for every quantizer.

A float program becomes a network with quantizers (`network`), trains by stochastic gradient descent
with momentum, and ends as a PT2E program of exactly the integers it was trained with.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from ...dataset import Dataset
from ...errors import DataError
from ..calibration import calibrate, check_images
from ..parameters import ActivationScheme, QuantizationParameters
from ..points import single_input
from ..post_training import layer_widths
from ..write import write_program
from . import checkpoint as checkpoints
from .auxiliary import AuxiliaryModule
from .batches import Batches
from .interrupts import deferred_interrupt
from .losses import classification, distillation
from .methods import METHODS
from .network import TrainingNetwork, float_network, takes_any_batch, training_network
from .options import TrainingOptions
from .sharpness import sharpness_aware_gradients

CALIBRATION_IMAGES = 512
"""That the first activation ranges are of."""
STATISTICS_IMAGES = 4096
"""That batch-norm's final statistics are of, at most."""
SECONDS_BETWEEN_CHECKPOINTS = 60.0
WARM_UP = 0.05
"""First part of the training, in which the learning rate rises."""


@dataclass(frozen=True)
class State:
    """Said after every step."""

    epoch: int
    """From 1."""
    epochs: int
    step: int
    """Steps done."""
    steps: int
    fraction: float
    """Of the training, by steps or by time, 0 to 1."""
    loss: float
    """Mean of the epoch so far."""
    images_per_second: float
    """Of this session."""
    seconds_left: float
    """As long as the rest takes at this speed."""


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """What a training has come to; `program` and `parameters` as they stood when it ended."""

    program: ExportedProgram
    """Quantized, PT2E."""
    parameters: QuantizationParameters
    losses: tuple[float, ...]
    """Mean loss of each epoch."""
    steps: int
    seconds: float
    """Of training, over all sessions."""
    finished: bool
    """False where Ctrl-C ended it: the checkpoint goes on from there."""


def train(
    program: ExportedProgram,
    data: Dataset,
    weights: int | Mapping[str, int] = 8,
    options: TrainingOptions | None = None,
    *,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: Callable[[State], None] = lambda state: None,
) -> TrainingResult:
    """Train a float program with quantized weights and activations.

    `data`: images float32, (images, *input shape), and labels, which only `options.distill` can do
    without. `weights`: bits, 2 to 8, of all layers or by name (others have 8). `checkpoint` is
    written every minute, after each epoch and on Ctrl-C, which ends the training after the step
    under way; with `resume` it is read first, if it is there. Raises `FrontendError` for programs
    that cannot be quantized, `DataError` for unsuitable data, widths, options or checkpoints, and
    where the loss is no longer finite.
    """
    options = options or TrainingOptions()
    options.check()
    data = Dataset(check_images(program, data.x), data.y)
    if data.y is None and not options.distill:
        raise DataError("data: no labels y; give them, or distill from the float network")
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        with torch.random.fork_rng(devices=()):  # its only use: an auxiliary module's first values
            torch.manual_seed(options.seed)
            training = Training(program, data, layer_widths(program, weights), options)
        finished = training.run(checkpoint, resume, progress)
        parameters = training.network.eval().quantization()
        return TrainingResult(
            write_program(program, parameters), parameters, tuple(training.losses), training.step,
            training.seconds, finished,
        )  # fmt: skip
    finally:
        torch.set_num_threads(threads)


class Training:
    """One training's state: the network, the optimizer, how far it is."""

    def __init__(
        self,
        program: ExportedProgram,
        data: Dataset,
        bits: Mapping[str, int],
        options: TrainingOptions,
    ) -> None:
        self.program, self.options = program, options
        self.bits = dict(bits)
        self.network = build_network(program, data, bits, options)
        size = single_input(program).meta["val"].shape[0]
        fixed = int(size) if isinstance(size, int) else 0
        any_batch = takes_any_batch(self.network, program)
        if not any_batch and len(data) < fixed:
            raise DataError(
                f"data: the program was exported for {fixed} images at a time, there are "
                f"{len(data)}: export it with a free batch size"
            )
        self.batches = Batches(
            data, options.batch if any_batch else fixed, options.augmentation, options.seed
        )
        self.steps = options.epochs * self.batches.steps
        self.teacher = float_network(program) if options.distill else None
        self.auxiliary: AuxiliaryModule | None = None
        if options.auxiliary:
            self.auxiliary = AuxiliaryModule(
                self.network, torch.from_numpy(data.x[: self.batches.batch])
            )
        self.frozen = False
        self.named = _named_parameters(self.network, self.auxiliary)
        self.optimizer = _optimizer(self.network, self.auxiliary, options)
        self.step, self.seconds, self.epoch_loss = 0, 0.0, 0.0
        self.losses: list[float] = []
        if self.batches.batch < 2:
            self.freeze()  # one image has no statistics worth learning
        self.identity = checkpoints.Identity(
            *checkpoints.fingerprint(program, data), self.bits, options.as_dict()
        )

    def run(self, checkpoint: Path | None, resume: bool, progress: Callable[[State], None]) -> bool:
        """Trains; whether to the end, or until Ctrl-C."""
        if resume and checkpoint is not None and checkpoint.exists():
            self.restore(checkpoint)
        self.network.train()
        with deferred_interrupt() as interrupted:
            finished = self._steps(checkpoint, progress, interrupted)
        if checkpoint is not None:
            self.save(checkpoint)
        return finished

    def _steps(
        self,
        checkpoint: Path | None,
        progress: Callable[[State], None],
        interrupted: Callable[[], bool],
    ) -> bool:
        """Whether the training came to its end."""
        begun, before, first = time.monotonic(), self.seconds, self.step
        saved = begun
        while (fraction := self.fraction()) < 1:
            if interrupted():
                return False
            self.epoch_loss += self.one_step(fraction)
            self.step += 1
            now = time.monotonic()
            self.seconds = before + now - begun
            progress(self._state((self.step - first) / max(now - begun, 1e-9)))
            if self.step % self.batches.steps == 0:
                self.losses.append(self.epoch_loss / self.batches.steps)
                self.epoch_loss = 0.0
            elif now - saved < SECONDS_BETWEEN_CHECKPOINTS:
                continue
            if checkpoint is not None:
                self.save(checkpoint)
                saved = time.monotonic()
        return True

    def fraction(self) -> float:
        """Of the training that is done, by steps, or by time if that is further."""
        by_time = 0.0
        if self.options.minutes is not None:
            by_time = self.seconds / (60 * self.options.minutes)
        return min(1.0, max(self.step / self.steps, by_time))

    def one_step(self, fraction: float) -> float:
        """The loss of one step, taken."""
        options = self.options
        if fraction >= 1 - options.frozen and not self.frozen:
            self.freeze()
        self.network.anneal(fraction)
        rate = options.rate * learning_rate(fraction)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        x, y = self.batch(self.step)
        target = None
        if self.teacher is not None:
            with torch.no_grad():
                target = self.teacher(x)
        self.optimizer.zero_grad()

        def loss() -> Tensor:
            return self.loss(x, y, target)

        if options.sharpness > 0:
            value = sharpness_aware_gradients(
                self.network, loss, options.sharpness, self.optimizer.zero_grad
            )
        else:
            value = loss()
            value.backward()
        number = float(value.detach())
        if not math.isfinite(number):
            raise DataError(
                f"the loss is {number} at step {self.step + 1}: take a lower rate than "
                f"{options.rate:g}"
            )
        self.optimizer.step()
        self.network.constrain()
        return number

    def batch(self, step: int) -> tuple[Tensor, Tensor | None]:
        """Images, channels last in memory, and labels."""
        x, y = self.batches(step)
        return (x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x), y

    def freeze(self) -> None:
        """From now on batch-norm's statistics stay, estimated anew before."""
        if self.step:
            count = min(self.batches.steps, -(-STATISTICS_IMAGES // self.batches.batch))
            self.network.estimate_statistics(self.batch(self.step + i)[0] for i in range(count))
        self.network.freeze_statistics()
        self.frozen = True

    def loss(self, x: Tensor, y: Tensor | None, teacher: Tensor | None) -> Tensor:
        """Cross entropy where there are labels, plus distillation where there is a teacher; the
        auxiliary module's the same, added."""
        outputs = [self.network(x)]
        if self.auxiliary is not None and (scores := self.auxiliary()) is not None:
            outputs.append(scores)
        terms = [classification(o, y) for o in outputs] if y is not None else []
        if teacher is not None:
            terms += [distillation(o, teacher, self.options.temperature) for o in outputs]
        return torch.stack(terms).sum()

    def _state(self, steps_per_second: float) -> State:
        position = (self.step - 1) % self.batches.steps + 1
        by_steps = (self.steps - self.step) / steps_per_second
        by_time = math.inf
        if self.options.minutes is not None:
            by_time = 60 * self.options.minutes - self.seconds
        return State(
            epoch=(self.step - 1) // self.batches.steps + 1,
            epochs=self.options.epochs,
            step=self.step,
            steps=self.steps,
            fraction=self.fraction(),
            loss=self.epoch_loss / position,
            images_per_second=steps_per_second * self.batches.batch,
            seconds_left=max(0.0, min(by_steps, by_time)),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Everything that changes, by name."""
        found = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        if self.auxiliary is not None:
            found |= {f"auxiliary.{k}": v for k, v in self.auxiliary.state_dict().items()}
        for name, parameter in self.named.items():
            buffer = self.optimizer.state[parameter].get("momentum_buffer")
            momentum = torch.zeros_like(parameter) if buffer is None else buffer
            found[f"momentum.{name}"] = momentum
        return found

    def save(self, path: Path) -> None:
        progress = checkpoints.Progress(
            self.step, self.seconds, tuple(self.losses), self.epoch_loss, self.frozen
        )
        checkpoints.save_checkpoint(path, self.identity, progress, self.tensors())

    def restore(self, path: Path) -> None:
        """Raises `DataError`, and changes nothing, where the file does not belong to this."""
        progress, tensors = checkpoints.load_checkpoint(path, self.identity, self.tensors())
        if progress.step > self.steps or len(progress.losses) != (
            progress.step // self.batches.steps
        ):
            raise DataError(f"{path}: its progress makes no sense; start without it")
        parts: list[tuple[str, nn.Module]] = [("network.", self.network)]
        if self.auxiliary is not None:
            parts.append(("auxiliary.", self.auxiliary))
        for prefix, module in parts:
            module.load_state_dict(
                {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            )
        if progress.step:
            for name, parameter in self.named.items():
                buffer = tensors[f"momentum.{name}"]
                self.optimizer.state[parameter]["momentum_buffer"] = buffer
        self.step, self.seconds = progress.step, progress.seconds
        self.losses, self.epoch_loss = list(progress.losses), progress.epoch_loss
        if progress.frozen:
            self.network.freeze_statistics()
            self.frozen = True


def build_network(
    program: ExportedProgram, data: Dataset, bits: Mapping[str, int], options: TrainingOptions
) -> TrainingNetwork:
    """The network before its first step, ranges calibrated on the first images: all values seen
    where codes have 8 bits, of least squared error where they have fewer."""
    x, width = data.x[:CALIBRATION_IMAGES], options.activation_bits
    ranges = calibrate(program, x)
    narrow = None
    if width < 8:
        narrow = calibrate(program, x, method="mse", scheme=ActivationScheme(width))
    return training_network(program, bits, METHODS[options.method], ranges, width, narrow)


def learning_rate(fraction: float) -> float:
    """Of the highest, when so much of the training is done: linear warm-up, then a cosine."""
    return min(1.0, (fraction + 1e-3) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * fraction))


def _named_parameters(
    network: TrainingNetwork, auxiliary: AuxiliaryModule | None
) -> dict[str, nn.Parameter]:
    modules: list[tuple[str, nn.Module]] = [("network", network)]
    if auxiliary is not None:
        modules.append(("auxiliary", auxiliary))
    return {
        f"{prefix}.{name}": parameter
        for prefix, module in modules
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def _optimizer(
    network: TrainingNetwork, auxiliary: AuxiliaryModule | None, options: TrainingOptions
) -> torch.optim.Optimizer:
    """Weights (and clipping levels) decay, everything else does not."""
    decayed: list[nn.Parameter] = [layer.weight for layer in network.layers.values()]
    for quantizer in dict.fromkeys(network.quantizers.values()):
        decayed += quantizer.clips()
    if auxiliary is not None:
        decayed += [p for p in auxiliary.parameters() if p.ndim > 1]
    known = {id(p) for p in decayed}
    named = _named_parameters(network, auxiliary).values()
    others = [p for p in named if id(p) not in known]
    return torch.optim.SGD(
        [
            {"params": decayed, "weight_decay": options.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=options.rate,
        momentum=options.momentum,
    )
