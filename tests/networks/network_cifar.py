# SPDX-License-Identifier: Apache-2.0
"""ResNet-20 on CIFAR-10 as JPEG, fine-tuned on those images, from the files in `$BITLOOP_DATA`.

The published weights are of lossless images; three epochs on the JPEG ones mend most of what the
loss costs.
"""

import io
import os
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from network_classifiers import resnet_cifar
from network_training import Recipe, trained_once
from PIL import Image
from torch import nn

from bitloop.dataset import Dataset

WEIGHTS, IMAGES = "resnet20-12fca82f.th", "cifar10_jpeg.zip"
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the colour channels, as the published weights want them."""
RECIPE = Recipe(epochs=3, rate=0.01, decay=1e-4)


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
    return trained_once("resnet20", published_resnet20(), cifar("train"), RECIPE)


def accuracy(model: nn.Module, data: Dataset) -> float:
    """Fraction of `data` whose largest output is its label."""
    with torch.no_grad():
        found = [model(torch.from_numpy(data.x[i : i + 500])) for i in range(0, len(data), 500)]
    return float((torch.cat(found).argmax(1).numpy() == data.y).mean())
