# SPDX-License-Identifier: Apache-2.0
"""What every device offers: load a binary, run inputs, report where the cycles went."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..binary import Binary


@dataclass(frozen=True)
class MemoryModel:
    """External memory as the simulated core sees it."""

    latency: int = 40
    """Cycles from an address to its first data."""
    bytes_per_cycle: int = 4
    """Data moved a cycle at most, each way."""


@dataclass(frozen=True)
class Profile:
    """Cycle counters of one inference, all read from the core.

    `sum(causes.values()) == cycles` and `head + sum(layer_cycles) + tail == cycles`.
    """

    cycles: int
    causes: dict[str, int]
    """`compute`, `weight_wait`, `memory_wait`, `drain`."""
    head: int
    """Cycles before the first layer's first step."""
    layer_cycles: tuple[int, ...]
    """One entry a layer of the binary, in order."""
    tail: int
    """Cycles after the last layer's last output."""


class Device(Protocol):
    """A backend. `name` is `reference`, `model`, `verilator`, or a board's: `serial:` and its port,
    `virtual:` and what it is called."""

    name: str

    def load(self, binary: Binary) -> None:
        """Make `binary` the program to run; runs its setup part. Raises `BinaryError` for a binary
        of another core, `DeviceError` when the device fails."""

    def run(
        self, inputs: Mapping[str, NDArray[np.uint8]]
    ) -> tuple[dict[str, NDArray[np.uint8]], Profile | None]:
        """Run the images of a batch one after the other, weights kept.

        `inputs`: one array a graph input, (batch, height, width, channels), the model's own codes
        in memory layout (int8 codes viewed as uint8). Returns one such array a graph output, and
        the profile of the last inference, None where the device has no notion of time.
        """


@runtime_checkable
class TimingDevice(Device, Protocol):
    """A device that knows the cycles of an inference without running one."""

    def profile(self) -> Profile:
        """Of one inference of the binary loaded."""


@dataclass(frozen=True)
class Trip:
    """One inference from a host's view: inputs to the board, the run, outputs back."""

    cycles: int
    """Of the board's clock, by its own counter; those of the run included."""
    sent: int
    """Bytes on the line to the board, all that surrounds the data included."""
    received: int


@runtime_checkable
class BoardDevice(Device, Protocol):
    """A device with a clock of its own, at the end of a line."""

    @property
    def megahertz(self) -> float | None:
        """The clock, None where nobody knows that the board can run at it."""

    @property
    def clock_note(self) -> str:
        """Where the clock is known from, or what to do to know it."""

    def trip(self) -> Trip:
        """Of the last run, an image on average."""

    def predictions(self) -> Iterator[Profile]:
        """Of the last inference, by the core's model with the board's memory: one for each state of
        the memory's refresh that it can have begun in, the first few spread over all."""


def time_inference(device: Device, binary: Binary) -> Profile | None:
    """Profile of one inference of the binary loaded on `device`, which does not depend on what is
    in the images; None where the device has no notion of time."""
    if isinstance(device, TimingDevice):
        return device.profile()
    _, profile = device.run(
        {spec.name: np.zeros((1, *spec.shape), np.uint8) for spec in binary.input_specs}
    )
    return profile
