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


def block(size, channels):
    """Two 3x3 convolutions of 2-bit weights and a residual, which no other layer reads, added to
    the second."""
    b = Builder(np.random.default_rng(0), N16.lanes, "block", N16.multiplier_bits)
    around = {"padding": (1, 1, 1, 1)}
    first = b.conv(b.input(size, size, 16), 16, 2, (3, 3), **around)
    residual = b.conv(first, channels, 2, (1, 1)) if channels > 16 else first
    second = b.conv(b.conv(first, channels, 2, (3, 3), **around), channels, 2, (3, 3), **around)
    return b.graph([b.add(second, residual)])


@pytest.mark.parametrize(("channels", "steps"), [(16, 3), (32, 2 * 5)])
@pytest.mark.parametrize("size", [8, 15, 16])
def test_a_residual_costs_no_cycle_a_pixel(size, channels, steps):
    binary = compile_graph(block(size, channels), N16)
    ReferenceDevice().load(binary)
    device = ModelDevice(N16)
    device.load(binary)
    cycles = device.profile().layer_cycles
    assert cycles[-1] < steps * size * size + 56  # a start, where constants change
