# SPDX-License-Identifier: Apache-2.0
"""ResNet-20 on CIFAR-10 as JPEG, fine-tuned on those images, from the files in `$BITLOOP_DATA`.

The published weights are of lossless images; three epochs on the JPEG ones mend most of what the
loss costs. The result is cached by content beside the simulator builds: it takes minutes.
"""

import hashlib
import io
import os
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from network_classifiers import resnet_cifar
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from bitloop.dataset import Dataset
from bitloop.sim.build import cache_folder

WEIGHTS, IMAGES = "resnet20-12fca82f.th", "cifar10_jpeg.zip"
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the colour channels, as the published weights want them."""
EPOCHS, BATCH, RATE = 3, 128, 0.01


def data_file(name: str) -> Path:
    """A file of `$BITLOOP_DATA`; skips the test where it is missing."""
    path = Path(os.environ.get("BITLOOP_DATA", "")) / name
    if not os.environ.get("BITLOOP_DATA") or not path.is_file():
        pytest.skip(f"BITLOOP_DATA does not name a folder with {name}")
    return path


@cache
def cifar(split: str) -> Dataset:
    """`train` (20,000) or `test` (5,000): `x` (images, 3, 32, 32) normalized, `y` 0 to 9; in an
    order drawn once, so that any part holds all classes."""
    pixels, labels = [], []
    with zipfile.ZipFile(data_file(IMAGES)) as archive:
        names = sorted(n for n in archive.namelist() if n.startswith(f"{split}/"))
        classes = sorted({name.split("/")[1] for name in names if name.endswith(".jpg")})
        for name in names:
            if name.endswith(".jpg"):
                pixels.append(np.asarray(Image.open(io.BytesIO(archive.read(name)))))
                labels.append(classes.index(name.split("/")[1]))
    x = (np.stack(pixels).astype(np.float32) / 255 - MEAN) / DEVIATION
    order = np.random.default_rng(0).permutation(len(x))
    x = np.ascontiguousarray(x.transpose(0, 3, 1, 2)[order], dtype=np.float32)
    return Dataset(x, np.array(labels, dtype=np.int64)[order])


def published_resnet20() -> nn.Module:
    """ResNet-20 with option A shortcuts and the published weights, for evaluation."""
    model = resnet_cifar(3)
    archive = torch.load(data_file(WEIGHTS), weights_only=True, map_location="cpu")
    values = archive["state_dict"].values()
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    model.load_state_dict(dict(zip(state, values, strict=True)), strict=False)
    return model.eval()


def fine_tuned_resnet20() -> nn.Module:
    """`published_resnet20` after three epochs on the JPEG images; for evaluation."""
    recipe = [Path(__file__).read_bytes(), data_file(WEIGHTS).read_bytes()]
    key = hashlib.sha256(b"".join(recipe) + data_file(IMAGES).read_bytes()).hexdigest()[:24]
    path = cache_folder() / "networks" / f"resnet20-{key}.safetensors"
    model = published_resnet20()
    if not path.is_file():
        _fine_tune(model, cifar("train"))
        path.parent.mkdir(exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        save_file(model.state_dict(), part)
        part.rename(path)
    model.load_state_dict(load_file(path))
    return model.eval()


def accuracy(model: nn.Module, data: Dataset) -> float:
    """Fraction of `data` whose largest output is its label."""
    with torch.no_grad():
        found = [model(torch.from_numpy(data.x[i : i + 500])) for i in range(0, len(data), 500)]
    return float((torch.cat(found).argmax(1).numpy() == data.y).mean())


def augmented(x: Tensor, generator: torch.Generator) -> Tensor:
    """Images mirrored at random and moved by up to four pixels."""
    mirrored = torch.rand(len(x), generator=generator) < 0.5
    x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
    top, left = torch.randint(0, 9, (2,), generator=generator).tolist()
    return functional.pad(x, (4, 4, 4, 4))[:, :, top : top + 32, left : left + 32]


def _fine_tune(model: nn.Module, data: Dataset) -> None:
    generator = torch.Generator().manual_seed(0)
    steps = EPOCHS * (len(data) // BATCH)
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    model.train()
    for _ in range(EPOCHS):
        order = torch.randperm(len(data), generator=generator)
        for indices in order[: len(data) // BATCH * BATCH].split(BATCH):
            x = augmented(torch.from_numpy(data.x[indices]), generator)
            loss = functional.cross_entropy(model(x), torch.from_numpy(data.y[indices]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
