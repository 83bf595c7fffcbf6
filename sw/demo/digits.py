# SPDX-License-Identifier: Apache-2.0
"""Scikit-learn's handwritten digits, and training on them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..dataset import Dataset
from .network import DigitsNetwork

EPOCHS = 24
BATCH = 32
TEST_IMAGES = 447


def load_digits(seed: int = 0) -> tuple[Dataset, Dataset]:
    """Training and test images, 1,350 and 447 of the 1,797, split by `seed`."""
    from sklearn.datasets import load_digits as load

    digits = load()
    x = (digits.images / 16.0).astype(np.float32)[:, np.newaxis]
    data = Dataset(x, digits.target.astype(np.int64))
    order = np.random.default_rng(seed).permutation(len(data))
    return data.take(order[TEST_IMAGES:]), data.take(order[:TEST_IMAGES])


def train(
    data: Dataset,
    *,
    epochs: int = EPOCHS,
    seed: int = 0,
    progress: Callable[[str, float], None] = lambda message, fraction: None,
) -> nn.Module:
    """A trained network in evaluation mode; the same seed gives the same one on one machine."""
    assert data.y is not None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # operators this small lose more to a second thread than they gain
    try:
        return _train(data.x, data.y, epochs, seed, progress)
    finally:
        torch.set_num_threads(threads)


def _train(
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    epochs: int,
    seed: int,
    progress: Callable[[str, float], None],
) -> nn.Module:
    torch.manual_seed(seed)
    network = DigitsNetwork()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=1e-2)
    batches = -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1e-2, total_steps=epochs * batches
    )
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    for epoch in range(epochs):
        progress(f"training, epoch {epoch + 1} of {epochs}", epoch / epochs)
        for indices in torch.randperm(len(images)).split(BATCH):
            loss = nn.functional.cross_entropy(network(_shift(x[indices])), y[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def _shift(x: torch.Tensor) -> torch.Tensor:
    """Each batch moved by up to one pixel: the only augmentation, and enough for 8x8 digits."""
    down, right = (int(v) for v in torch.randint(-1, 2, (2,)))
    return torch.roll(nn.functional.pad(x, (1, 1, 1, 1)), (down, right), (2, 3))[:, :, 1:-1, 1:-1]
