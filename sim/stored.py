# SPDX-License-Identifier: Apache-2.0
"""A device that measures a program once, and afterwards knows it from the measurement store."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitloop.binary import Binary
from bitloop.devices.interface import Device, MemoryModel, Profile, time_inference
from bitloop.errors import DeviceError
from bitloop.hw.config import CoreConfig

from .cache import content_hash
from .cycle_model.definitions import header, parameters
from .cycle_model.device import ModelDevice
from .device import VerilatorDevice
from .simulation import OUTSTANDING_BURSTS, core_verilog
from .store import Conditions, Entry, Store

_HERE = Path(__file__).parent


def conditions(device: Device) -> Conditions | None:
    """What cycles on this device depend on; None for one that does not say what it is.

    A board says it by `build`, a SHA-256 of what it was made from, and `config`.
    """
    config = getattr(device, "config", None)
    if not isinstance(config, CoreConfig):
        return None
    memory = getattr(device, "memory", None) or MemoryModel()
    if not isinstance(memory, MemoryModel):
        return None
    outstanding = OUTSTANDING_BURSTS
    if isinstance(device, ModelDevice):
        values = parameters(config)
        sources = [*sorted((_HERE / "cycle_model").glob("*.h")), _HERE / "cycle_model/model.cpp"]
        hardware = content_hash(json.dumps(values), header(tuple(values)), *_texts(*sources))
        harness = content_hash(*_texts(_HERE / "memory.h"))
        outstanding = device.outstanding
    elif isinstance(device, VerilatorDevice):
        hardware = hashlib.sha256(core_verilog(config).encode()).hexdigest()
        harness = content_hash(*_texts(_HERE / "harness.cpp", _HERE / "memory.h"))
    else:
        build: Any = getattr(device, "build", None)
        if not isinstance(build, str):
            return None
        hardware, harness = build, ""
    return Conditions(device.name, hardware, harness, memory, outstanding, config.name)


def stored(device: Device, store: Store) -> Device:
    """`device`, its measurements kept in `store`; as it is where it does not say what it is."""
    found = conditions(device)
    return device if found is None else StoredDevice(device, store, found)


class StoredDevice:
    """Implements `bitloop.devices.interface.TimingDevice`: a program that the store knows is not
    even loaded, until it is to run."""

    def __init__(self, device: Device, store: Store, conditions: Conditions) -> None:
        self.device, self.store, self.conditions = device, store, conditions
        self.name = device.name
        self.config: CoreConfig = device.config  # type: ignore[attr-defined]
        self.megahertz: float | None = getattr(device, "megahertz", None)
        self.clock_note: str = getattr(device, "clock_note", "")
        self.reused = 0
        """Measurements that the store knew."""
        self.measured = 0
        """Measurements made."""
        self._binary: Binary | None = None
        self._loaded = False

    def load(self, binary: Binary) -> None:
        """As `Device.load`, but the device itself loads it only when needed."""
        binary.check_config(self.config)
        self._binary, self._loaded = binary, False

    def run(
        self, inputs: Mapping[str, NDArray[np.uint8]]
    ) -> tuple[dict[str, NDArray[np.uint8]], Profile | None]:
        """As `Device.run`."""
        binary = self._expect()
        if not self._loaded:
            self.device.load(binary)
            self._loaded = True
        return self.device.run(inputs)

    def profile(self) -> Profile:
        """Of the first inference after loading."""
        binary = self._expect()
        known = self.known(binary)
        if known is not None:
            return known
        entry = measure(self.device, binary, self.conditions)
        self._loaded = True
        self.measured += 1
        self.store.put(entry, binary.to_bytes())
        return entry.profile

    def known(self, binary: Binary) -> Profile | None:
        """What the store has of this program under these conditions."""
        found = self.store.get(self.conditions, _program(binary))
        self.reused += found is not None
        return None if found is None else found.profile

    def keep(self, binary: Binary, profile: Profile, seconds: float) -> None:
        """Stores what another process measured under the same conditions."""
        binary.check_config(self.config)
        self.measured += 1
        entry = _entry(binary, self.conditions, profile, seconds)
        self.store.put(entry, binary.to_bytes())

    def _expect(self) -> Binary:
        if self._binary is None:
            raise DeviceError("no binary is loaded; call load first")
        return self._binary


def measure(device: Device, binary: Binary, conditions: Conditions) -> Entry:
    """Loads and times one inference of `binary`; raises `DeviceError` for a device without time."""
    start = time.monotonic()
    device.load(binary)
    profile = time_inference(device, binary)
    if profile is None:
        raise DeviceError(f"device {device.name!r} has no notion of time")
    return _entry(binary, conditions, profile, round(time.monotonic() - start, 3))


def measured_again(store: Store, entry: Entry, device: Device) -> str | None:
    """What differs when `device`, of the entry's conditions, measures the program again; None
    where nothing does."""
    content = store.program(entry.program)
    if content is None:
        return "the program is missing or damaged"
    binary = Binary.from_bytes(content, f"program {entry.program[:12]}")
    found = measure(device, binary, entry.conditions).profile
    for field in dataclasses.fields(Profile):
        kept, now = getattr(entry.profile, field.name), getattr(found, field.name)
        if kept != now:
            return f"{field.name}: {kept} is kept, {now} measured now"
    return None


def device_of(entry: Entry, config: CoreConfig) -> Device | None:
    """A device on which the entry can be measured again; None where there is none any more:
    a board, or a core whose sources have changed since."""
    device: Device
    if entry.conditions.device == ModelDevice.name:
        device = ModelDevice(
            config, entry.conditions.memory, outstanding=entry.conditions.outstanding
        )
    elif entry.conditions.device == VerilatorDevice.name:
        device = VerilatorDevice(config, entry.conditions.memory)
    else:
        return None
    now = conditions(device)
    return device if now == entry.conditions else None


def _entry(binary: Binary, conditions: Conditions, profile: Profile, seconds: float) -> Entry:
    layers = tuple(layer.name for layer in binary.layers)
    return Entry(conditions, _program(binary), binary.name, layers, profile, seconds)


def _program(binary: Binary) -> str:
    return hashlib.sha256(binary.to_bytes()).hexdigest()


def _texts(*paths: Path) -> list[str]:
    return [path.read_text() for path in paths]
