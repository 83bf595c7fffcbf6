# SPDX-License-Identifier: Apache-2.0
"""The netlist that place and route gets, simulated in the RTL's place: it computes what the RTL
computes, in as many cycles. Faults in its nets show.

`pytest -m benchmark -s tests/benchmarks/test_netlist.py -k n4` prints one preset's figures; most of
the minutes are synthesis. The simulator goes from cell to cell, because Verilator takes a netlist
of n4 half a minute and makes 20 MB of C++ of it.
"""

from __future__ import annotations

import ctypes
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from netlist_cells import Cells, library
from network_integers import integer_graph
from numpy.typing import NDArray

from bitloop.binary import Binary
from bitloop.boards import flow
from bitloop.boards.targets.parts import LFE5U_25F_381
from bitloop.compile import compile_graph
from bitloop.demo.network import DigitsNetwork
from bitloop.devices.interface import MemoryModel, Profile
from bitloop.errors import CompileError, DeviceError
from bitloop.frontend.torch_export import import_program
from bitloop.graph.execute import execute
from bitloop.graph.ir import Graph
from bitloop.hw.config import PRESETS, CoreConfig
from bitloop.hw.verilog import COLUMN, TOP, emit
from bitloop.programs import export_module
from bitloop.quantize import quantize
from bitloop.sim.device import VerilatorDevice
from bitloop.sim.random_graphs import random_graph, random_inputs
from bitloop.sim.random_layers import Mismatch, cases, compare, to_memory

DATA = os.environ.get("BITLOOP_DATA")
CASES = 40
FAULTS = 20
LEAST_SHOWN = 0.5
"""Share of faults. Two flip-flops drawn at random may be equal whenever it matters, as high bits of
counters are, or matter in errors only: 15 of 20 joined pairs of n4 showed, 19 of 20 exchanged."""

Codes = dict[str, NDArray[np.uint8]]


def synthesized(config: CoreConfig) -> Cells:
    """The core as place and route gets it, without a board around it."""
    blocks = {"columns": "array.column", "core": ""}
    design = flow.Design(emit(config, "ecp5"), TOP, (COLUMN,), blocks)
    path = flow.synthesize(design, LFE5U_25F_381, print).path
    return Cells(json.loads(path.read_text())["modules"][TOP])


@dataclass(frozen=True)
class Case:
    """A graph to run, with what must come of it."""

    binary: Binary
    memory: MemoryModel
    pauses: float
    seed: int
    inputs: Codes
    golden: Codes

    @staticmethod
    def of(config: CoreConfig, graph: Graph, seed: int) -> Case:
        """With random inputs and a random memory; raises `CompileError`."""
        codes = random_inputs(graph, seed, 1)
        golden, inputs = to_memory(graph, execute(graph, codes)), to_memory(graph, codes)
        rng = np.random.default_rng((seed, 3))
        memory = MemoryModel(int(rng.choice([1, 3, 40, 120])), int(rng.choice([1, 3, 4, 16])))
        pauses = float(rng.uniform(0.05, 0.6)) if rng.random() < 0.4 else 0.0
        return Case(compile_graph(graph, config), memory, pauses, seed, inputs, golden)

    def run(
        self, netlist: Path | None = None, most_cycles: int = 20_000_000
    ) -> tuple[Profile, int]:
        """On the RTL or a netlist: the profile, and all cycles simulated. Raises `Mismatch` with
        the golden model, or `DeviceError`."""
        device = VerilatorDevice(
            self.binary.config, self.memory, cycle_limit=most_cycles, library=netlist
        )
        try:
            device.load(self.binary)
            assert device.simulation is not None
            device.simulation.set_pauses(self.pauses, self.seed)
            outputs, profile = device.run(self.inputs)
            cycles = device.simulation.cycles
        finally:
            device.close()
        compare("netlist" if netlist else "RTL", self.golden, outputs)
        return profile, cycles


class Netlist:
    """A netlist that runs in the RTL's place."""

    def __init__(self, config: CoreConfig, cells: Cells, folder: Path) -> None:
        self.library = library(config, folder)
        self._loaded = ctypes.CDLL(str(self.library))
        self._file = folder / "netlist"
        self.use(cells)

    def use(self, cells: Cells) -> None:
        """Cells to simulate from now on."""
        cells.write(self._file)
        self._loaded.netlist_use(os.fsencode(self._file))

    def differs(self, case: Case, expected: tuple[Profile, int]) -> bool:
        """Whether outputs or cycles do, or it stops."""
        try:
            return case.run(self.library, 2 * expected[1]) != expected
        except (Mismatch, DeviceError):
            return True


def layers(config: CoreConfig) -> Iterator[tuple[int, Graph]]:
    """Random layers with their seeds."""
    for seed, kind, bits in cases(0, CASES):
        yield seed, random_graph(seed, config.lanes, kind, bits, config.multiplier_bits)


def digits(config: CoreConfig) -> Graph:
    torch.manual_seed(0)
    x = np.random.default_rng(0).random((16, 1, 8, 8), dtype=np.float32)
    program = quantize(export_module(DigitsNetwork(), x), x)
    return import_program(program, "digits", config.multiplier_bits)


@pytest.mark.benchmark
@pytest.mark.parametrize("name", PRESETS)
def test_the_netlist_computes_what_the_rtl_computes(name, tmp_path):
    config = PRESETS[name]
    cells = synthesized(config)
    start = time.perf_counter()
    netlist = Netlist(config, cells, tmp_path)
    print(
        f"\n{name}: {len(cells.luts):,} LUTs, carry cells as up to six, {len(cells.flip_flops):,} "
        f"flip-flops, {len(cells.rams)} block RAMs, {len(cells.multipliers)} multipliers; "
        f"simulator built in {time.perf_counter() - start:.0f} s"
    )
    graphs = {f"layer {seed}": (seed, graph) for seed, graph in layers(config)}
    graphs["digits"] = 0, digits(config)
    if DATA:
        graphs["ds-cnn"] = 0, integer_graph("ds-cnn", Path(DATA))
    refused, simulated, seconds = 0, 0, 0.0
    for title, (seed, graph) in graphs.items():
        try:
            case = Case.of(config, graph, seed)
        except CompileError:
            refused += 1
            continue
        expected = case.run()
        start = time.process_time()
        assert case.run(netlist.library) == expected, title
        seconds += time.process_time() - start
        simulated += expected[1]
        if seed == 0:
            print(f"  {title}: {expected[0].cycles:,} cycles, as the RTL")
    speed = simulated / seconds
    print(f"  {len(graphs) - refused} graphs, {simulated:,} cycles, {speed:,.0f} a second")
    assert refused <= 1


@pytest.mark.benchmark
def test_nets_joined_or_exchanged_show(tmp_path):
    """Where names collide, two nets become one, and what drove one of them is gone."""
    config = PRESETS["n4"]
    cells = synthesized(config)
    netlist = Netlist(config, cells, tmp_path)
    ready = [Case.of(config, graph, seed) for seed, graph in layers(config)]
    runs = [(case, case.run()) for case in ready]
    assert not any(netlist.differs(*run) for run in runs)
    rng = np.random.default_rng(0)
    shown = {"joined": 0, "exchanged": 0}
    for kind in shown:
        for _ in range(FAULTS):
            kept, lost = (int(net) for net in rng.choice([*cells.states], 2, replace=False))
            netlist.use(cells.renamed({lost: kept} | ({kept: lost} if kind == "exchanged" else {})))
            if any(netlist.differs(*run) for run in runs):
                shown[kind] += 1
            else:
                print(f"  not shown: {cells.states[kept]} and {cells.states[lost]} {kind}")
    print(f"\nof {FAULTS} each: {shown}")
    assert min(shown.values()) >= LEAST_SHOWN * FAULTS
