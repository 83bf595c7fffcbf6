# SPDX-License-Identifier: Apache-2.0
"""Programs with flipped bits: the core ends, keeps to its windows and runs the next one right."""

import numpy as np
import pytest

from bitloop.compile import compile_graph
from bitloop.errors import DeviceError
from bitloop.graph.execute import execute
from bitloop.hw.config import preset
from bitloop.hw.isa import LINE_BYTES, Window
from bitloop.sim.device import VerilatorDevice
from bitloop.sim.random_graphs import random_graph, random_inputs
from bitloop.sim.random_layers import to_memory

CONFIG = preset("n4")
MUTATIONS = 6


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bits_do_no_harm(seed):
    rng = np.random.default_rng(seed)
    graph = random_graph(1000 + seed, CONFIG.lanes, "network", 8)
    binary = compile_graph(graph, CONFIG)
    inputs = random_inputs(graph, seed, 1)
    golden = to_memory(graph, execute(graph, inputs))
    inputs = to_memory(graph, inputs)
    device = VerilatorDevice(CONFIG, cycle_limit=50_000_000)
    device.load(binary)
    simulation, driver = device.simulation, device.driver
    memory = driver.memory_map
    start, size = memory.base[Window.PROGRAM], memory.size[Window.PROGRAM]
    first = 8 * binary.inference.offset
    last = first + 8 * LINE_BYTES * binary.inference.lines
    program = simulation.read_memory(start, size)
    for _ in range(MUTATIONS):
        mutated = bytearray(program)
        for bit in rng.integers(first, last, rng.integers(1, 4)):
            mutated[bit // 8] ^= 1 << (bit % 8)
        simulation.write_memory(start, bytes(mutated))
        try:
            device.run(inputs)
        except DeviceError as error:
            assert "stopped with" in str(error)  # a code of the core's, not the host's patience
        assert simulation.read_memory(start, size) == mutated
        simulation.write_memory(start, program)
        driver.load(binary, start)  # what a mutated program loaded elsewhere is loaded again
        outputs, _ = device.run(inputs)
        assert all((outputs[name] == golden[name]).all() for name in golden)
