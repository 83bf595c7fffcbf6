# SPDX-License-Identifier: Apache-2.0
"""The RTL as a device: the same Verilog that goes on an FPGA, simulated by Verilator."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitloop.binary import Binary
from bitloop.devices.driver import Driver, MemoryMap
from bitloop.devices.interface import MemoryModel, Profile
from bitloop.devices.timeline import Timeline
from bitloop.errors import DeviceError
from bitloop.hw.config import CoreConfig

from .build import Progress, build
from .simulation import MEMORY_BASE, Simulation, core_recipe, core_verilog


def prepare(config: CoreConfig, progress: Progress | None = None) -> Path:
    """Emit and build the core's simulation if the cache lacks it; the library's path."""
    return build(core_recipe(config, core_verilog(config, progress)), progress)


class VerilatorDevice:
    """Implements `bitloop.devices.interface.Device` on the simulated core.

    Each binary gets a freshly reset core whose memory ends where its windows end, so an access
    outside shows as a bus error. The core is built on the first load and cached; any number of
    processes may do so at once.
    """

    name = "verilator"

    def __init__(
        self,
        config: CoreConfig,
        memory: MemoryModel | None = None,
        *,
        waves: Path | None = None,
        progress: Progress | None = None,
        cycle_limit: int = 1_000_000_000,
        record: bool = False,
        library: Path | None = None,
    ) -> None:
        """`waves`: VCD file of everything from each load on (needs another, slower build).
        `record`: keep the timeline of each run (likewise). `library`: what to simulate instead of
        the RTL, as for `Simulation`."""
        self.config = config
        self.memory = memory or MemoryModel()
        self.simulation: Simulation | None = None
        self.driver: Driver | None = None
        self._waves = waves
        self._progress = progress
        self._cycle_limit = cycle_limit
        self._record = record
        self._library = library

    def load(self, binary: Binary) -> None:
        """As `Device.load`."""
        binary.check_config(self.config)
        self.close()
        memory_bytes = MemoryMap.of(binary, MEMORY_BASE).end - MEMORY_BASE
        self.simulation = Simulation(
            self.config,
            memory_bytes,
            self.memory,
            self._waves,
            self._progress,
            record=self._record,
            library=self._library,
        )
        driver = Driver(self.simulation, self.config, self._cycle_limit)
        driver.load(binary, MEMORY_BASE)
        self.driver = driver

    def run(
        self, inputs: Mapping[str, NDArray[np.uint8]]
    ) -> tuple[dict[str, NDArray[np.uint8]], Profile]:
        """As `Device.run`."""
        if self.driver is None:
            raise DeviceError("no binary is loaded; call load first")
        return self.driver.run(inputs)

    def timeline(self) -> Timeline:
        """As `RecordingDevice.timeline`."""
        if self.simulation is None or not self._record:
            raise DeviceError("nothing is recorded; open the device to record, load, then run")
        return self.simulation.timeline()

    def close(self) -> None:
        """Free the simulation and finish its wave file; `load` starts a new one."""
        self.driver = None
        if self.simulation is not None:
            self.simulation.close()
            self.simulation = None
