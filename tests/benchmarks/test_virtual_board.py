# SPDX-License-Identifier: Apache-2.0
"""A whole board in simulation runs MLPerf Tiny's networks: milliseconds and frames/s at the clock
its build reached, what of it is the link's, and how fast it simulates. The core's model with the
board's memory must give every cycle of it.

`pytest -m benchmark -s tests/benchmarks/test_virtual_board.py -k ds-cnn`. That one's program goes
over the link, the others', which would take minutes, into the memory at once.
"""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from network_integers import FILES, integer_graph

from bitloop.boards.device import VirtualDevice
from bitloop.boards.targets import find_target
from bitloop.codes import flip_sign
from bitloop.compile import compile_graph
from bitloop.graph.execute import execute
from bitloop.session import Session

DATA = os.environ.get("BITLOOP_DATA")


@pytest.mark.benchmark
@pytest.mark.parametrize("name", ["ulx3s-12f"])
@pytest.mark.parametrize("network", ["ds-cnn", "resnet8", "autoencoder", "mobilenet-v1-0.25"])
def test_a_network_on_a_whole_board(name, network):
    if network in FILES and not DATA:
        pytest.skip("BITLOOP_DATA does not name the folder of the networks")
    target = find_target(name)
    graph = integer_graph(network, Path(DATA or "."))
    binary = compile_graph(graph, target.config())
    over_link = network == "ds-cnn"
    device = VirtualDevice(f"virtual:{name}", binary.config, over_link=over_link)
    bus = device.open()  # builds the simulation
    start, cycles = time.perf_counter(), bus.status().cycles
    session = Session(binary, device)
    loaded_cycles = bus.status().cycles
    rng = np.random.default_rng(0)
    codes = {
        spec.name: rng.integers(0, 256, (1, *spec.shape), np.uint8) for spec in binary.input_specs
    }
    found, _ = device.run({s.name: flip_sign(s, codes[s.name]) for s in binary.input_specs})
    speed = (bus.status().cycles - cycles) / (time.perf_counter() - start)
    expected = execute(graph, codes)
    for spec in binary.output_specs:
        assert np.array_equal(flip_sign(spec, found[spec.name]), expected[spec.name])
    report = session.measure(thorough=True)
    assert report.board is not None and report.board.predicted.exact
    print(f"\n{network} on {name} with {binary.config.name}: {speed:,.0f} simulated cycles/s")
    if over_link:
        burst = 10 * binary.program_bytes / target.baud
        took = (loaded_cycles - cycles) / bus.description.clock_hertz
        print(
            f"{binary.program_bytes:,} bytes loaded in {1e3 * took:.1f} ms of the board's time, "
            f"{burst / took:.1%} of the line"
        )
    print(f"share of the link: {report.board.transfer_cycles / report.board.trip.cycles:.1%}")
    print("\n".join(report.board.lines()))
    device.close()
