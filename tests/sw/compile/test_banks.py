# SPDX-License-Identifier: Apache-2.0
"""Residuals of narrow layers are read where no step of their pixel uses their bank."""

import numpy as np
import pytest

from bitloop.compile import compile_graph
from bitloop.devices.reference import ReferenceDevice
from bitloop.hw.config import preset
from bitloop.sim.cycle_model.device import ModelDevice
from bitloop.sim.random_nodes import Builder

N16 = preset("n16")


def block(size):
    """Two 3x3 convolutions of 16 channels with 2-bit weights and a residual around the second."""
    b = Builder(np.random.default_rng(0), N16.lanes, "block", N16.multiplier_bits)
    around = {"padding": (1, 1, 1, 1)}
    first = b.conv(b.input(size, size, 16), 16, 2, (3, 3), **around)
    second = b.conv(b.conv(first, 16, 2, (3, 3), **around), 16, 2, (3, 3), **around)
    return b.graph([b.add(second, first)])


@pytest.mark.parametrize("size", [8, 15, 16])
def test_a_residual_costs_no_cycle_a_pixel(size):
    binary = compile_graph(block(size), N16)
    ReferenceDevice().load(binary)
    device = ModelDevice(N16)
    device.load(binary)
    cycles = device.profile().layer_cycles
    assert cycles[2] < cycles[1] + 56  # a start, where constants change; a cycle a pixel is more
