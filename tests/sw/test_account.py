# SPDX-License-Identifier: Apache-2.0
"""What instructions are for and what they move, against what the core's model and memory count."""

import pytest

from bitloop.account import _waited, account, works_of
from bitloop.compile import compile_graph
from bitloop.devices.interface import MemoryModel
from bitloop.hw.config import preset
from bitloop.hw.isa import Opcode, Window
from bitloop.report import latency_report
from bitloop.sim.cycle_model.device import ModelDevice
from bitloop.sim.random_graphs import random_graph
from bitloop.sim.random_programs import random_program

CONFIG = preset("n4")


def measured(binary, memory=None):
    device = ModelDevice(CONFIG, memory, record=True)
    device.load(binary)
    report = latency_report(binary, device.profile(), "model")
    return account(binary, report, device.timeline())


def network(seed=1, bits=8):
    return compile_graph(random_graph(seed, CONFIG.lanes, "network", bits), CONFIG)


@pytest.mark.parametrize("seed", range(6))
def test_every_cycle_has_a_part_and_a_cause(seed):
    found = measured(network(seed), MemoryModel(1 + 17 * seed, 1 + seed))
    report = found.report
    parts = [found.head, *(layer.causes for layer in found.layers), found.tail]
    lengths = [report.head, *(layer.latency.cycles for layer in found.layers), report.tail]
    assert [sum(part.values()) for part in parts] == lengths
    for cause, cycles in report.causes.items():
        assert sum(part[cause] for part in parts) == cycles


@pytest.mark.parametrize("seed", range(6))
def test_steps_are_the_cycles_the_array_computes(seed):
    found = measured(network(seed))
    assert sum(layer.steps for layer in found.layers) == found.report.causes["compute"]
    for layer in found.layers:
        # Steps of a layer may run before the last output of the one before is written.
        assert 0 < layer.steps <= layer.latency.cycles + 60


def test_steps_of_random_programs_are_the_cycles_the_array_computes():
    for seed in range(20):
        binary = random_program(seed, CONFIG)
        device = ModelDevice(CONFIG)
        device.load(binary)
        assert sum(work.steps for work in works_of(binary)) == device.profile().causes["compute"]


def test_a_memory_of_little_bandwidth_bounds_the_cycles():
    """No inference is faster than its bytes, and one that only waits is about as fast."""
    for seed in range(3):
        found = measured(network(seed), MemoryModel(1, 1))
        assert found.read_bytes <= found.report.cycles
        assert found.written_bytes <= found.report.cycles
        assert sum(layer.read_bytes for layer in found.layers) <= found.read_bytes


def test_instructions_belong_to_the_layers_they_feed():
    binary = network()
    works = works_of(binary)
    assert all(work.layer is not None for work in works)
    computes = [work for work in works if work.opcode is Opcode.COMPUTE]
    assert sorted({work.layer for work in computes}) == list(range(len(binary.layers)))
    for layer in range(len(binary.layers)):
        marks = [work.fields["mark"] for work in computes if work.layer == layer]
        assert marks == [0] * (len(marks) - 1) + [1]
    (first, *_), (*_, last) = works, works
    assert (first.layer, last.layer) == (0, len(binary.layers) - 1)
    windows = [w for w in works if "window" in w.fields]
    (inputs,) = {w.layer for w in windows if w.fields["window"] == Window.INPUT}
    stores = [w for w in windows if w.fields["window"] == Window.OUTPUT]
    assert inputs == 0
    assert [(w.layer, w.written_bytes) for w in stores] == [
        (1, binary.outputs[0].size),
        (len(binary.layers) - 1, binary.outputs[1].size),
    ]


def test_waits_are_counted_modulo_two_to_the_sixteenth():
    assert _waited(5, 3) == 3
    assert _waited(5, 0) == 0
    assert _waited(70_000, 69_990 % 65536) == 69_990
    assert _waited(65_536, 65_535) == 65_535
    assert _waited(65_540, 4) == 65_540
