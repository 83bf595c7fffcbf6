# SPDX-License-Identifier: Apache-2.0
"""Build time of the simulated RTL from an empty cache, and its cycles a second.

`pytest -m benchmark -s tests/benchmarks/test_speed.py -k n16` prints one preset's figures.
"""

import time

import numpy as np
import pytest
import torch

from bitloop.compile import compile_graph
from bitloop.demo.network import DigitsNetwork
from bitloop.frontend.torch_export import import_program
from bitloop.hw.config import preset
from bitloop.programs import export_module
from bitloop.quantize import quantize
from bitloop.sim.device import VerilatorDevice, prepare

LONGEST_BUILD = 90.0
LEAST_SPEED = 100_000
SECONDS = 3.0


@pytest.mark.benchmark
@pytest.mark.parametrize("name", ["n4", "n8", "n16"])
def test_building_and_running_the_rtl_is_fast(name, tmp_path, monkeypatch):
    monkeypatch.setenv("BITLOOP_CACHE", str(tmp_path))
    config = preset(name)
    start = time.perf_counter()
    prepare(config)
    build_seconds = time.perf_counter() - start

    torch.manual_seed(0)
    x = np.random.default_rng(0).random((16, 1, 8, 8), dtype=np.float32)
    program = quantize(export_module(DigitsNetwork(), x), x)
    binary = compile_graph(import_program(program, "digits", config.multiplier_bits), config)
    device = VerilatorDevice(config)
    device.load(binary)
    inputs = {spec.name: np.zeros((1, *spec.shape), np.uint8) for spec in binary.input_specs}
    cycles, start = 0, time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        cycles += device.run(inputs)[1].cycles
    speed = cycles / (time.perf_counter() - start)
    print(f"\n{name}: built in {build_seconds:.0f} s, {speed:,.0f} cycles/s")
    assert build_seconds <= LONGEST_BUILD
    assert speed >= LEAST_SPEED
