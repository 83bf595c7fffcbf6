# SPDX-License-Identifier: Apache-2.0
"""The images of each step: order and augmentation drawn from the seed and the step's number alone,
so that a resumed training sees the same ones."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ...dataset import Dataset

AUGMENTATIONS = ("none", "shift", "mirror-shift")


class Batches:
    """`steps` batches an epoch, each image at most once; the rest of the last one is left out."""

    def __init__(self, data: Dataset, batch: int, augmentation: str, seed: int) -> None:
        self.data, self.augmentation, self.seed = data, augmentation, seed
        self.batch = min(batch, len(data))
        self.steps = len(data) // self.batch
        self._order: tuple[int, Tensor] | None = None

    def __call__(self, step: int) -> tuple[Tensor, Tensor | None]:
        """(images, labels) of step 0, 1, ... of the whole training."""
        epoch, position = divmod(step, self.steps)
        if self._order is None or self._order[0] != epoch:
            generator = self._generator(0, epoch)
            self._order = epoch, torch.randperm(len(self.data), generator=generator)
        indices = self._order[1][position * self.batch : (position + 1) * self.batch].numpy()
        x = augmented(
            torch.from_numpy(self.data.x[indices]), self.augmentation, self._generator(1, step)
        )
        y = None if self.data.y is None else torch.from_numpy(self.data.y[indices])
        return x, y

    def _generator(self, purpose: int, number: int) -> torch.Generator:
        """Of its own for everything drawn: numbers that follow from the seed."""
        state = np.random.SeedSequence((self.seed, purpose, number)).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))


def augmented(x: Tensor, augmentation: str, generator: torch.Generator) -> Tensor:
    """Images mirrored left to right at random, and all moved alike by up to an eighth of their
    size, zeros coming in. Inputs that are no images, (images, channels, rows, columns), stay."""
    if augmentation == "none" or x.ndim != 4:
        return x
    if augmentation == "mirror-shift":
        mirrored = torch.rand(len(x), generator=generator) < 0.5
        x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
    height, width = x.shape[2:]
    rows, columns = max(1, height // 8), max(1, width // 8)
    top = int(torch.randint(0, 2 * rows + 1, (1,), generator=generator))
    left = int(torch.randint(0, 2 * columns + 1, (1,), generator=generator))
    padded = functional.pad(x, (columns, columns, rows, rows))
    return padded[:, :, top : top + height, left : left + width]
