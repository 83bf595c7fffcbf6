# SPDX-License-Identifier: Apache-2.0
"""Sections: the byte tensors of a binary that LOAD instructions read."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..binary import ALIGNMENT


class Sections:
    """Collects `steps`, `weights` and `parameters`; equal pieces are kept once."""

    def __init__(self) -> None:
        self._data = {name: bytearray() for name in ("steps", "weights", "parameters")}
        self._known: dict[tuple[str, bytes], int] = {}

    def add(self, name: str, raw: bytes) -> int:
        """Byte offset of `raw` in the section, aligned."""
        key = (name, raw)
        if key not in self._known:
            data = self._data[name]
            data += bytes(-len(data) % ALIGNMENT)
            self._known[key] = len(data)
            data += raw
        return self._known[key]

    def array(self, name: str) -> NDArray[np.uint8]:
        """A section's bytes."""
        return np.frombuffer(bytes(self._data[name]), np.uint8)
