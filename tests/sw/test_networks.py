# SPDX-License-Identifier: Apache-2.0
"""Small networks of every family, from PyTorch to the core: quantized, saved, compiled for cores
that hold them and for cores that hold next to nothing, compared at every step."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from network_catalogue import SMALL, build, images
from numpy.typing import NDArray
from torch.export import ExportedProgram
from torch_programs import compare

from bitloop.codes import flip_sign
from bitloop.compile import compile_graph
from bitloop.devices.interface import Device, Profile
from bitloop.devices.reference import ReferenceDevice
from bitloop.frontend.detect import import_file
from bitloop.frontend.torch_export import import_program
from bitloop.graph.execute import execute
from bitloop.graph.ir import Graph
from bitloop.hw.config import PRESETS
from bitloop.hw.isa import Opcode
from bitloop.programs import export_module, save_program
from bitloop.quantize import quantize
from bitloop.sim.cycle_model.device import ModelDevice
from bitloop.sim.device import VerilatorDevice

WIDTHS = dict(zip(SMALL, (8, 4, 8, 8, 2) * 3, strict=False))
"""Bits of each network's weights."""

LITTLE = {
    "n4": {"activation_words": 256, "weight_rows": 80, "step_entries": 128},
    "n8": {"activation_words": 192, "weight_rows": 80, "step_entries": 128},
    "n16": {"activation_words": 160, "weight_rows": 64, "step_entries": 128},
}
"""Memories far smaller than any of the networks."""

OUTPUTS = 100_000
"""Codes compared with PyTorch, at least, so that a share of 1e-5 can be told."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@cache
def quantized(name: str) -> ExportedProgram:
    network = SMALL[name]
    x = images(network.shape, 16, 5)
    return quantize(export_module(build(network), x), x, WIDTHS[name])


def codes(graph: Graph, batch: int) -> dict[str, NDArray[np.uint8]]:
    rng = np.random.default_rng(7)
    shapes = {name: graph.tensors[name].shape for name in graph.inputs}
    return {n: rng.integers(0, 256, (batch, *s), np.uint8) for n, s in shapes.items()}


def assert_equal(device: Device, graph: Graph, batch: int) -> Profile | None:
    inputs = codes(graph, batch)
    found, profile = device.run({n: flip_sign(graph.tensors[n], x) for n, x in inputs.items()})
    for name, expected in execute(graph, inputs).items():
        np.testing.assert_array_equal(found[name], flip_sign(graph.tensors[name], expected), name)
    return profile


@pytest.mark.parametrize("name", SMALL)
def test_integers_equal_pytorch(name: str) -> None:
    """Every tensor, computed from PyTorch's codes of those before it. In double precision: of so
    few codes, single precision itself may round more than the bound allows."""
    program, shape = quantized(name), SMALL[name].shape
    per_image = compare(program, 31, images(shape, 1, 6)).outputs
    x = images(shape, -(-OUTPUTS // per_image), 6)
    for bits, share in ((31, 1e-5), (16, 1e-3)):
        found = compare(program, bits, x, precise=True)
        assert found.outputs >= OUTPUTS
        assert found.largest <= 1, found.where
        assert found.wrong <= share * found.outputs, (bits, found.outputs, found.where)
    alive = execute(found.graph, codes(found.graph, 4), keep=True)
    assert min(len(np.unique(values)) for values in alive.values()) > 3, "an activation died"


@pytest.mark.parametrize("core", LITTLE)
@pytest.mark.parametrize("name", SMALL)
def test_cores_with_little_memory(name: str, core: str, tmp_path: Path) -> None:
    """From the file, in tiles and passes."""
    save_program(quantized(name), tmp_path / "network.pt2")
    config = PRESETS[core].replace(**LITTLE[core])
    graph, _ = import_file(tmp_path / "network.pt2", config.multiplier_bits)
    binary = compile_graph(graph, config)
    program = binary.program(binary.inference)
    opcodes = Counter(opcode for opcode, _ in program)
    assert opcodes[Opcode.COMPUTE] > len(binary.layers) or opcodes[Opcode.LOAD_WEIGHTS]
    device = ReferenceDevice()
    device.load(binary)
    assert_equal(device, graph, 2)


@pytest.mark.parametrize("name", SMALL)
def test_the_core_computes_the_same(name: str) -> None:
    """On the RTL, in as many cycles as its model says."""
    config = PRESETS["n4"]
    graph = import_program(quantized(name), name, config.multiplier_bits)
    binary = compile_graph(graph, config)
    device, model = VerilatorDevice(config), ModelDevice(config)
    device.load(binary)
    model.load(binary)
    assert assert_equal(device, graph, 1) == model.profile()


@pytest.mark.parametrize("name", ["resnet20", "mobilenet-v2", "keywords-1d", "unet", "googlenet"])
def test_onnx_gives_the_same_integers(name: str, tmp_path: Path) -> None:
    """torch.onnx.export of the quantized program, through the other front end."""
    example = (torch.from_numpy(images(SMALL[name].shape, 2, 1)),)
    batch = ({0: torch.export.Dim("batch", max=64)},)
    exported = torch.onnx.export(quantized(name), example, dynamo=True, dynamic_shapes=batch)
    assert exported is not None
    exported.save(str(tmp_path / "network.onnx"))
    for bits in (16, 31):
        graph, _ = import_file(tmp_path / "network.onnx", bits)
        own = import_program(quantized(name), name, bits)
        inputs = codes(own, 8)
        found = execute(graph, dict(zip(graph.inputs, inputs.values(), strict=True)))
        for values, expected in zip(found.values(), execute(own, inputs).values(), strict=True):
            np.testing.assert_array_equal(values, expected)
