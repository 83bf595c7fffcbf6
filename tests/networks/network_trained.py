# SPDX-License-Identifier: Apache-2.0
"""Small networks of other families trained on the JPEG images of `network_cifar`, in minutes.

Far from the best of their kind: what they are for is how quantization methods compare on networks
without residuals and with depthwise layers. Cached by content beside the simulator builds.
"""

import hashlib
import os
from pathlib import Path

import torch
from network_cifar import IMAGES, augmented, cifar, data_file
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from bitloop.sim.build import cache_folder

EPOCHS, BATCH, RATE, DECAY = 6, 128, 0.1, 5e-4


def _block(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    kernel = 1 if groups == 1 and stride == 0 else 3
    return [
        nn.Conv2d(inputs, outputs, kernel, max(stride, 1), kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


def vgg() -> nn.Module:
    """Six convolutions, three poolings, two linear layers, batch-norm: 10 million MACs."""
    return nn.Sequential(
        *_block(3, 16), *_block(16, 16), nn.MaxPool2d(2),
        *_block(16, 32), *_block(32, 32), nn.MaxPool2d(2),
        *_block(32, 64), *_block(64, 64), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def mobilenet() -> nn.Module:
    """MobileNetV1's depthwise separable layers, six of them, 3 million MACs."""
    layers = _block(3, 16)
    for inputs, outputs, stride in (
        (16, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 128, 1)
    ):  # fmt: skip
        layers += [*_block(inputs, inputs, stride, inputs), *_block(inputs, outputs, 0)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


NETWORKS = {"vgg": vgg, "mobilenet": mobilenet}


def trained(name: str) -> nn.Module:
    """A network of `NETWORKS`, trained once; for evaluation."""
    recipe = Path(__file__).read_bytes() + data_file(IMAGES).read_bytes()
    key = hashlib.sha256(name.encode() + recipe).hexdigest()[:24]
    path = cache_folder() / "networks" / f"{name}-{key}.safetensors"
    torch.manual_seed(0)
    model = NETWORKS[name]()
    if not path.is_file():
        _train(model)
        path.parent.mkdir(exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        save_file(model.state_dict(), part)
        part.rename(path)
    model.load_state_dict(load_file(path))
    return model.eval()


def _train(model: nn.Module) -> None:
    data, generator = cifar("train"), torch.Generator().manual_seed(0)
    steps = EPOCHS * (len(data) // BATCH)
    optimizer = torch.optim.SGD(
        model.parameters(), RATE, momentum=0.9, weight_decay=DECAY, nesterov=True
    )
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
