# SPDX-License-Identifier: Apache-2.0
"""One way to train small image networks in minutes, once: what comes out is kept in a file beside
the simulator builds, named by everything that it depends on."""

import hashlib
import inspect
import os
from dataclasses import dataclass

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from bitloop.dataset import Dataset
from bitloop.sim.cache import cache_folder


@dataclass(frozen=True)
class Recipe:
    """Stochastic gradient descent with momentum 0.9, its rate rising and falling once."""

    epochs: int
    rate: float
    """The highest."""
    decay: float
    """Of weights, a step."""
    nesterov: bool = False
    batch: int = 128


def trained_once(name: str, model: nn.Module, data: Dataset, recipe: Recipe) -> nn.Module:
    """`model`, trained from the weights it has, or from the file of an earlier time; for
    evaluation."""
    path = cache_folder() / "networks" / f"{name}-{key(model, data, recipe)}.safetensors"
    if not path.is_file():
        train(model, data, recipe)
        path.parent.mkdir(exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        save_file(model.state_dict(), part)
        part.rename(path)
    model.load_state_dict(load_file(path))
    return model.eval()


def key(model: nn.Module, data: Dataset, recipe: Recipe) -> str:
    """Of structure and first weights, images and labels, recipe, and the source of the training."""
    digest = hashlib.sha256(f"{model} {recipe}".encode())
    for function in (train, augmented):
        digest.update(inspect.getsource(function).encode())
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.numpy())
    digest.update(data.x)
    digest.update(data.y)
    return digest.hexdigest()[:24]


def train(model: nn.Module, data: Dataset, recipe: Recipe) -> None:
    """In place; every epoch in an order of its own, drawn from seed 0."""
    generator = torch.Generator().manual_seed(0)
    batches = len(data) // recipe.batch
    optimizer = torch.optim.SGD(
        model.parameters(), recipe.rate, momentum=0.9, weight_decay=recipe.decay,
        nesterov=recipe.nesterov,
    )  # fmt: skip
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.rate, total_steps=recipe.epochs * batches
    )
    model.train()
    for _ in range(recipe.epochs):
        order = torch.randperm(len(data), generator=generator)
        for indices in order[: batches * recipe.batch].split(recipe.batch):
            x = augmented(torch.from_numpy(data.x[indices]), generator)
            loss = functional.cross_entropy(model(x), torch.from_numpy(data.y[indices]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def augmented(x: Tensor, generator: torch.Generator) -> Tensor:
    """Images mirrored at random and moved by up to four pixels."""
    mirrored = torch.rand(len(x), generator=generator) < 0.5
    x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
    top, left = torch.randint(0, 9, (2,), generator=generator).tolist()
    return functional.pad(x, (4, 4, 4, 4))[:, :, top : top + 32, left : left + 32]
