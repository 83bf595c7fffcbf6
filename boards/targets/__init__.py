# SPDX-License-Identifier: Apache-2.0
"""Boards that a bitstream can be built for."""

from __future__ import annotations

from bitloop.errors import DeviceError

from .orangecrab import ORANGECRAB_25F
from .tang_nano import TANG_NANO_20K
from .target import Port, Target
from .ulx3s import ULX3S_12F, ULX3S_25F, ULX3S_45F, ULX3S_85F

__all__ = ["TARGETS", "Port", "Target", "find_target"]

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (ULX3S_85F, ULX3S_45F, ULX3S_25F, ULX3S_12F, ORANGECRAB_25F, TANG_NANO_20K)
}


def find_target(name: str) -> Target:
    """The board called `name`; raises `DeviceError` naming the known ones."""
    try:
        return TARGETS[name]
    except KeyError:
        raise DeviceError(f"unknown board {name!r}; known: {', '.join(TARGETS)}") from None
