# SPDX-License-Identifier: Apache-2.0
"""What the simulated core and its model record of a run is the same, cycle for cycle."""

from __future__ import annotations

import numpy as np
import pytest

from bitloop.binary import Binary
from bitloop.compile import compile_graph
from bitloop.devices.driver import Driver, MemoryMap
from bitloop.devices.interface import time_inference
from bitloop.devices.timeline import CauseRun, RecordingDevice, Timeline
from bitloop.errors import DeviceError
from bitloop.hw.config import preset
from bitloop.hw.isa import Queue
from bitloop.hw.registers import Cause
from bitloop.sim.cycle_model.device import ModelDevice
from bitloop.sim.cycle_model.verify import random_memory
from bitloop.sim.device import VerilatorDevice
from bitloop.sim.random_graphs import random_graph
from bitloop.sim.random_programs import random_program
from bitloop.sim.simulation import MEMORY_BASE, Simulation

CONFIG = preset("n4")


def timelines(binary: Binary, seed: int) -> tuple[Timeline, Timeline]:
    """Of one inference, on the RTL and on the model, with the memory of a seed."""
    memory, outstanding = random_memory(seed)
    size = MemoryMap.of(binary, MEMORY_BASE).end - MEMORY_BASE
    simulation = Simulation(CONFIG, size, memory, outstanding=outstanding, record=True)
    driver = Driver(simulation, CONFIG)
    driver.load(binary, MEMORY_BASE)
    driver.run({s.name: np.zeros((1, *s.shape), np.uint8) for s in binary.input_specs})
    rtl = simulation.timeline()
    simulation.close()
    model = ModelDevice(CONFIG, memory, outstanding=outstanding, record=True)
    model.load(binary)
    model.profile()
    return rtl, model.timeline()


@pytest.mark.parametrize("seed", range(4))
def test_a_network_runs_alike(seed: int) -> None:
    graph = random_graph(seed, CONFIG.lanes, "network", 8)
    rtl, model = timelines(compile_graph(graph, CONFIG), seed)
    assert rtl == model
    assert {time.queue for time in rtl.instructions} == set(Queue)


def test_random_programs_run_alike() -> None:
    causes = set()
    for seed in range(12):
        rtl, model = timelines(random_program(seed, CONFIG), seed)
        assert rtl == model, seed
        causes |= {run.cause for run in rtl.causes}
    assert causes == set(Cause)


def test_devices_record_the_run_they_profile() -> None:
    binary = compile_graph(random_graph(1, CONFIG.lanes, "network", 4), CONFIG)
    found = []
    for device in (ModelDevice(CONFIG, record=True), VerilatorDevice(CONFIG, record=True)):
        assert isinstance(device, RecordingDevice)
        device.load(binary)
        profile = time_inference(device, binary)
        assert profile is not None
        found.append(device.timeline())
        assert found[-1].split(0, profile.cycles) == profile.causes
    assert found[0] == found[1]


def test_only_what_was_opened_to_record_does() -> None:
    binary = compile_graph(random_graph(1, CONFIG.lanes, "network", 4), CONFIG)
    for device in (ModelDevice(CONFIG), VerilatorDevice(CONFIG), ModelDevice(CONFIG, record=True)):
        if device.name == "verilator" or not device._record:  # the last one: nothing loaded
            device.load(binary)
        with pytest.raises(DeviceError, match="open the device to record"):
            device.timeline()


def test_split_counts_the_cycles_of_a_part() -> None:
    runs = (CauseRun(Cause.DRAIN, 0, 5), CauseRun(Cause.COMPUTE, 5, 10))
    timeline = Timeline((), runs)
    assert timeline.split(3, 7) == {"compute": 2, "weight_wait": 0, "memory_wait": 0, "drain": 2}
    assert sum(timeline.split(0, 15).values()) == 15
    assert sum(timeline.split(5, 5).values()) == 0
    for first in range(16):
        for end in range(first, 16):
            assert timeline.split(first, end)["drain"] == max(0, min(end, 5) - first)
            assert sum(timeline.split(first, end).values()) == end - first
