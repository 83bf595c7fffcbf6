# SPDX-License-Identifier: Apache-2.0
"""The cycle model against the RTL at length, and how long it takes to time a network.

`pytest -m benchmark -s tests/benchmarks/test_cycle_model.py` prints, for each core, how many random
layers and random instruction streams take the same cycles, and for each MLPerf Tiny network its
cycles on both and the time of the model. The files of two networks are looked for in
`$BITLOOP_DATA`; the other two have random weights.
"""

import os
import time
from pathlib import Path

import network_catalogue as catalogue
import pytest

from bitloop.compile import compile_graph
from bitloop.devices.interface import MemoryModel
from bitloop.frontend.detect import import_file
from bitloop.frontend.torch_export import import_program
from bitloop.hw.config import PRESETS
from bitloop.programs import export_module
from bitloop.quantize import quantize
from bitloop.sim.cycle_model.device import ModelDevice
from bitloop.sim.cycle_model.verify import (
    compare,
    compare_random_layers,
    compare_random_programs,
)
from bitloop.sim.simulation import OUTSTANDING_BURSTS

LAYERS, PROGRAMS = 260, 40
"""Of each core; at least 1,000 layers and 100 programs on the presets together."""

CORES = dict(PRESETS)
CORES["n4, 31-bit multiplier, 64-bit bus, 1 burst"] = PRESETS["n4"].replace(
    multiplier_bits=31, data_bits=64, outstanding_bursts=1
)
CORES["n8, 4-bit slices, 128-bit bus, 16 bursts"] = PRESETS["n8"].replace(
    slice_bits=4, data_bits=128, outstanding_bursts=16
)

FILES = ("mlperf_tiny/pretrainedResnet_quant.tflite", "mlperf_tiny/kws_ref_model.tflite")
BUILT = ("mobilenet-v1-0.25", "autoencoder")
CONFIG = PRESETS["n16"]
MOST_SECONDS = 0.010


@pytest.mark.benchmark
@pytest.mark.parametrize("core", CORES)
def test_random_layers_and_programs(core):
    config = CORES[core]
    first = 10_000 * (1 + list(CORES).index(core))
    for name, found in (
        ("layers", compare_random_layers(config, first, LAYERS)),
        ("programs", compare_random_programs(config, first, PROGRAMS)),
    ):
        total = cycles = 0
        different = []
        for comparison in found:
            total += 1
            cycles += comparison.rtl.cycles
            if not comparison.equal:
                different.append(str(comparison))
        print(f"\n{core}: {total - len(different)} of {total} random {name} equal, {cycles} cycles")
        assert different == []


@pytest.mark.benchmark
@pytest.mark.parametrize("name", FILES)
def test_networks_from_files(name):
    data = os.environ.get("BITLOOP_DATA")
    if data is None:
        pytest.skip("BITLOOP_DATA does not name the folder of the networks")
    check_network(import_file(Path(data) / name, CONFIG.multiplier_bits)[0])


@pytest.mark.benchmark
@pytest.mark.parametrize("name", BUILT)
def test_networks_with_random_weights(name):
    network = catalogue.WHOLE[name]
    x = catalogue.images(network.shape, 4, 1)
    program = quantize(export_module(catalogue.build(network), x), x)
    check_network(import_program(program, name, CONFIG.multiplier_bits))


def check_network(graph):
    """Equal cycles, predicted in time; prints them."""
    binary = compile_graph(graph, CONFIG)
    comparison = compare(binary, MemoryModel(), OUTSTANDING_BURSTS)
    device = ModelDevice(CONFIG)
    device.load(binary)
    seconds = []
    for _ in range(9):
        start = time.process_time()
        cycles = device.profile().cycles
        seconds.append(time.process_time() - start)
    median = sorted(seconds)[len(seconds) // 2]
    print(f"\n{binary.name} on n16: {cycles} cycles, RTL {comparison.rtl.cycles}, ", end="")
    print(f"timed in {1e3 * median:.1f} ms of one core")
    assert comparison.equal, comparison
    assert median <= MOST_SECONDS
