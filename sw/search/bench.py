# SPDX-License-Identifier: Apache-2.0
"""Where candidates are compiled and measured whole, each once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from bitloop.hw.config import CoreConfig

from ..binary import Binary
from ..devices.interface import Device, Profile
from ..graph.ir import Graph
from ..graph.serialize import to_bytes
from .latency import Measurement, measure
from .memo import Memo, canonical, key
from .tasks import DeviceRecipe, compile_choice, measure_program
from .work import Work


@runtime_checkable
class KeepingDevice(Device, Protocol):
    """A device that remembers what it measured, also for other processes."""

    def known(self, binary: Binary) -> Profile | None:
        """What was measured of this program before; None where nothing was."""

    def keep(self, binary: Binary, profile: Profile, seconds: float) -> None:
        """Remembers what another process measured on the same device."""


class Bench:
    """Compiles for `config` and measures on `device`. With a `recipe` for the same device, other
    processes measure too."""

    def __init__(
        self,
        config: CoreConfig,
        device: Device,
        work: Work,
        memo: Memo,
        recipe: DeviceRecipe | None = None,
    ) -> None:
        self.config, self.device, self.work, self.memo = config, device, work, memo
        self.recipe = recipe
        self.evaluations = 0
        """Whole networks measured, or known from before."""
        self.measured = 0
        """Of these, those that the device measured now."""
        self._ready = False
        self._found: dict[str, Measurement] = {}

    @property
    def megahertz(self) -> float | None:
        """The device's clock; None where it has none."""
        return getattr(self.device, "megahertz", None)

    def measure(
        self, graphs: Sequence[Graph], done: Callable[[int], None] = lambda count: None
    ) -> list[Measurement]:
        """Whole-network runs of `graphs`, in order; `done` is called with how many are there."""
        contents = [to_bytes(graph) for graph in graphs]
        names = [hashlib.sha256(content).hexdigest() for content in contents]
        fresh = {n: c for n, c in zip(names, contents, strict=True) if n not in self._found}
        programs = self._compile(list(fresh.values()))
        missing: dict[str, bytes] = {}
        for name, program in zip(fresh, programs, strict=True):
            binary = Binary.from_bytes(program)
            known = None
            if isinstance(self.device, KeepingDevice):
                known = self.device.known(binary)
            if known is not None:
                self._found[name] = _measurement(binary, known)
            else:
                missing[name] = program
        done(len(names) - len(missing))
        self._run(missing, len(names) - len(missing), done)
        self.evaluations += len(fresh)
        self.measured += len(missing)
        return [self._found[name] for name in names]

    def _compile(self, contents: list[bytes]) -> list[bytes]:
        core = canonical(vars(self.config))
        keys = [key("compile", content, core) for content in contents]
        known = [self.memo.result(k) for k in keys]
        calls = [
            (content, self.config)
            for content, found in zip(contents, known, strict=True)
            if found is None
        ]
        made = iter(self.work.map(compile_choice, calls))
        programs = []
        for k, found in zip(keys, known, strict=True):
            if found is None:
                found = next(made)
                self.memo.keep(k, "program", found)
            programs.append(found)
        return programs

    def _run(self, missing: dict[str, bytes], before: int, done: Callable[[int], None]) -> None:
        here = list(missing)
        if self.recipe is not None:
            # The first one here: it builds what the others only have to open.
            here = here[: int(not self._ready)]
        for name in here:
            binary = Binary.from_bytes(missing[name])
            self._found[name] = measure(binary, self.device)
            self._ready = True
            before += 1
            done(before)
        rest = [name for name in missing if name not in here]
        calls = [(missing[name], self.recipe) for name in rest]
        found = self.work.map(measure_program, calls, lambda count: done(before + count))
        for name, (profile, seconds) in zip(rest, found, strict=True):
            binary = Binary.from_bytes(missing[name])
            if isinstance(self.device, KeepingDevice):
                self.device.keep(binary, profile, seconds)
            self._found[name] = _measurement(binary, profile)


def _measurement(binary: Binary, profile: Profile) -> Measurement:
    return Measurement(tuple(layer.name for layer in binary.layers), profile)
