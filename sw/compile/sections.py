# SPDX-License-Identifier: Apache-2.0
"""Sections: the byte tensors of a binary that LOAD instructions read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..binary import ALIGNMENT


class Sections:
    """Collects `steps`, `weights` and `parameters`; equal pieces are kept once."""

    def __init__(self) -> None:
        self._parts: dict[str, list[NDArray[np.uint8]]] = {
            name: [] for name in ("steps", "weights", "parameters")
        }
        self._sizes = dict.fromkeys(self._parts, 0)
        self._known: dict[tuple[str, bytes], int] = {}

    def add(self, name: str, parts: Sequence[NDArray[np.uint8]]) -> int:
        """Byte offset of the parts, one after the other, in the section; aligned. They are not
        copied."""
        digest = hashlib.blake2b(digest_size=32)
        whole = [np.ascontiguousarray(part).reshape(-1) for part in parts]
        for part in whole:
            digest.update(part.data)
        key = (name, digest.digest())
        if key not in self._known:
            gap = -self._sizes[name] % ALIGNMENT
            self._known[key] = self._sizes[name] + gap
            self._parts[name] += [np.zeros(gap, np.uint8), *whole]
            self._sizes[name] += gap + sum(part.size for part in whole)
        return self._known[key]

    def array(self, name: str) -> NDArray[np.uint8]:
        """A section's bytes."""
        return np.concatenate([np.zeros(0, np.uint8), *self._parts[name]])
