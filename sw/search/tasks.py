# SPDX-License-Identifier: Apache-2.0
"""Work that may run in another process or on another machine: functions of bytes and plain values.

What goes there are the project's own byte forms, checked on arrival: graphs, binaries and images as
safetensors blobs. Nothing of PyTorch is needed there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from bitloop.hw.config import CoreConfig

from ..binary import Binary
from ..codes import decode
from ..compile import compile_graph
from ..devices.interface import Device, MemoryModel, Profile
from ..graph.execute import execute
from ..graph.ir import Graph
from ..graph.serialize import from_bytes
from .latency import measure


@dataclass(frozen=True)
class DeviceRecipe:
    """How any process opens the same device."""

    name: str
    config: CoreConfig
    memory: MemoryModel


def compile_choice(graph: bytes, config: CoreConfig) -> bytes:
    """The binary of a graph."""
    return compile_graph(from_bytes(graph), config).to_bytes()


def measure_program(binary: bytes, recipe: DeviceRecipe) -> tuple[Profile, float]:
    """Loads a binary and times one inference; its profile and the seconds that took."""
    start = time.monotonic()
    device = _device(recipe)
    return measure(Binary.from_bytes(binary), device).profile, round(time.monotonic() - start, 3)


def run_images(graph: bytes, images: bytes) -> NDArray[np.float32]:
    """The real values of a graph's only output for some images (`pack_images`), by the golden
    executor."""
    network = _graph(graph)
    spec = network.tensors[network.outputs[0]]
    return decode(spec, execute(network, {network.inputs[0]: _images(images)})[spec.name])


def pack_images(codes: NDArray[np.uint8]) -> bytes:
    """Codes of a graph's input, (images, height, width, channels), for `run_images`."""
    return safetensors.numpy.save({"codes": np.ascontiguousarray(codes)})


@lru_cache(maxsize=4)
def _device(recipe: DeviceRecipe) -> Device:
    from ..session import open_device

    return open_device(recipe.name, recipe.config, recipe.memory)


@lru_cache(maxsize=8)
def _graph(raw: bytes) -> Graph:
    return from_bytes(raw)


@lru_cache(maxsize=4)
def _images(raw: bytes) -> NDArray[np.uint8]:
    return safetensors.numpy.load(raw)["codes"]
