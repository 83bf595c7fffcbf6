# SPDX-License-Identifier: Apache-2.0
"""A binary loaded on a device, run with floats or raw codes. Opens devices by name: with the
command line, the one place in this package that reaches `bitloop.sim` and `bitloop.boards`, and
only when asked to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bitloop.hw.config import CoreConfig

from .binary import Binary
from .board_time import board_time
from .codes import decode, encode, flip_sign, from_raw, to_raw
from .devices.interface import BoardDevice, Device, MemoryModel, Profile, time_inference
from .errors import DataError, DeviceError
from .host import apply as apply_host
from .report import LatencyReport, latency_report

if TYPE_CHECKING:
    from bitloop.sim.store import Store

DEVICES = ("reference", "model", "verilator")
BOARDS = ("serial:", "virtual:")
"""What names of boards begin with: then a port, or the name of a board that is simulated."""

Arrays = NDArray | Mapping[str, NDArray]


def open_device(
    name: str,
    config: CoreConfig,
    memory: MemoryModel | None = None,
    progress: Callable[[str, float], None] | None = None,
    record: bool = False,
) -> Device:
    """The device called `name` for cores of this configuration; `memory` is the external memory
    of the RTL and of its model, boards have their own. `progress` is called with what is being
    built and the fraction done. `record`: one with time keeps the timeline of each run
    (`RecordingDevice`); of the RTL that is another build. Raises `DeviceError` for an unknown name
    or a failed build."""
    if name == "reference":
        from .devices.reference import ReferenceDevice

        return ReferenceDevice()
    if name == "model":
        from bitloop.sim.cycle_model.device import ModelDevice

        return ModelDevice(config, memory, progress=progress, record=record)
    if name == "verilator":
        from bitloop.sim.device import VerilatorDevice

        return VerilatorDevice(config, memory or MemoryModel(), progress=progress, record=record)
    if name.startswith("serial:"):
        from bitloop.boards.device import SerialDevice

        return SerialDevice(name, config)
    if name.startswith("virtual:"):
        from bitloop.boards.device import VirtualDevice

        return VirtualDevice(name, config, progress)
    raise DeviceError(
        f"unknown device {name!r}; known: {', '.join(DEVICES)}, serial:PORT and virtual:BOARD "
        "(`bitloop devices` lists them)"
    )


def is_board(name: str) -> bool:
    """Whether a device's name is that of a board, real or virtual."""
    return name.startswith(BOARDS)


def open_store(path: Path | None = None) -> Store:
    """The measurement store, the common one by default. Raises `StoreError`."""
    from bitloop.sim.store import Store

    return Store(path)


def stored(device: Device, store: Store) -> Device:
    """`device`, measuring only what `store` does not know."""
    from bitloop.sim.stored import stored as wrapped

    return wrapped(device, store)


class Session:
    """A loaded network: `run` floats or `run_raw` codes, one array, or one an input by name."""

    def __init__(self, binary: Binary, device: Device) -> None:
        self.binary = binary
        self.device = device
        self.profile: Profile | None = None
        """Of the last inference; None where the device has no notion of time."""
        device.load(binary)

    def run(self, inputs: Arrays) -> Arrays:
        """Real values in and out, (batch, *source_shape), through the stored scales; what the
        network leaves to the host (softmax, argmax) is applied.

        Returns one array, or a mapping for networks of several outputs. Raises `DataError`.
        """
        memory = {
            spec.name: flip_sign(spec, encode(spec, array))
            for spec, array in self._inputs(inputs, "float")
        }
        found = self._run(memory)
        reals = {s.name: decode(s, flip_sign(s, found[s.name])) for s in self.binary.output_specs}
        return self._outputs(apply_host(self.binary.host, reals))

    def run_raw(self, inputs: Arrays) -> Arrays:
        """Integer codes in and out, in the source model's dtype and layout, before what the host
        computes. Raises `DataError`."""
        found = self._run({s.name: from_raw(s, a) for s, a in self._inputs(inputs, "raw")})
        return self._outputs({s.name: to_raw(s, found[s.name]) for s in self.binary.output_specs})

    def measure(self, thorough: bool = False) -> LatencyReport:
        """Reports the cycles of one image, which do not depend on the image's values. `thorough`:
        of a board's, look for the state of its memory in which the model gives every one of them,
        which takes up to half a minute.

        Raises `DeviceError` for a device without time.
        """
        self.profile = time_inference(self.device, self.binary)
        if self.profile is None:
            raise DeviceError(
                f"device {self.device.name!r} has no notion of time; "
                "measure on `verilator`, `model` or a board"
            )
        board = None
        if isinstance(self.device, BoardDevice):
            board = board_time(self.device, self.profile, thorough)
        return latency_report(self.binary, self.profile, self.device.name, board)

    def _run(self, memory: dict[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.uint8]]:
        outputs, self.profile = self.device.run(memory)
        return outputs

    def _inputs(self, inputs: Arrays, kind: str) -> list:
        specs = self.binary.input_specs
        if not isinstance(inputs, Mapping):
            if len(specs) != 1:
                names = ", ".join(spec.name for spec in specs)
                raise DataError(
                    f"the network has {len(specs)} inputs ({names}); give one array each"
                )
            inputs = {specs[0].name: inputs}
        missing = [spec.name for spec in specs if spec.name not in inputs]
        if missing or len(inputs) != len(specs):
            raise DataError(f"expected the inputs {[s.name for s in specs]}, not {sorted(inputs)}")
        if len({np.shape(array)[:1] for array in inputs.values()}) != 1:
            raise DataError("the inputs differ in batch size")
        return [(spec, inputs[spec.name]) for spec in specs]

    def _outputs(self, outputs: dict[str, NDArray]) -> Arrays:
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs
