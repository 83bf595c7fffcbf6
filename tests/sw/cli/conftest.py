# SPDX-License-Identifier: Apache-2.0
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import bitloop
from bitloop.programs import export_module, save_program


@pytest.fixture(scope="session")
def network(tmp_path_factory):
    """Files of a small network, float, quantized and compiled for n4, and of its data."""
    folder = tmp_path_factory.mktemp("network")
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 3)
    )
    generator = np.random.default_rng(0)
    x = generator.normal(0, 1, (24, 1, 6, 6)).astype(np.float32)
    found = SimpleNamespace(
        module=module,
        x=x,
        float=folder / "net.pt2",
        data=folder / "d.npz",
        quantized=folder / "q.pt2",
        binary=folder / "net.bitloop",
        input=folder / "x.npy",
    )
    np.savez(found.data, x=x, y=generator.integers(0, 3, 24))
    np.save(found.input, x[:4])
    save_program(export_module(module, x), found.float)
    save_program(bitloop.quantize(found.float, x), found.quantized)
    bitloop.compile(found.quantized, preset="n4").save(found.binary)
    return found
