# SPDX-License-Identifier: Apache-2.0
"""What a search says while it runs: what is done, the best so far, the time left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from .problem import Progress
from .result import PHASES

EVERY = 2.0
"""Seconds between messages of the same work."""


class Tracker:
    """Counts work by kind, takes the time of phases, and says both."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.best = ""
        """The best so far, in words; empty while there is none."""
        self._done: dict[str, int] = {}
        self._left: dict[str, int] = {}
        self._spent: dict[str, float] = {}
        self._since = time.monotonic()
        self._said = -EVERY

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Takes the time of the block as part of this phase."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] += time.monotonic() - start

    def expect(self, kind: str, count: int) -> None:
        """That many evaluations of this kind are still to come."""
        self._left[kind] = count
        self._since = time.monotonic()

    def done(self, kind: str, count: int = 1) -> None:
        """That many of them are done since the last call."""
        now = time.monotonic()
        self._spent[kind] = self._spent.get(kind, 0.0) + now - self._since
        self._since = now
        self._done[kind] = self._done.get(kind, 0) + count
        self._left[kind] = max(0, self._left.get(kind, 0) - count)

    def say(self, message: str, *, often: bool = False) -> None:
        """`message`, with how far the search is; one of those that come `often` only where the
        last one was a while ago."""
        now = time.monotonic()
        if often and now - self._said < EVERY:
            return
        self._said = now
        parts = [message]
        count = sum(self._done.values())
        if count:
            parts.append(f"{count} evaluations done")
        if self.best:
            parts.append(f"best so far {self.best}")
        left = self.left()
        if left is not None:
            parts.append(f"about {left:.0f} s left")
        self._progress("; ".join(parts))

    def left(self) -> float | None:
        """Seconds that the evaluations announced will take, by those done; None where none is, or
        none is done of a kind."""
        total = 0.0
        for kind, left in self._left.items():
            done = self._done.get(kind, 0)
            if left and not done:
                return None
            total += left * self._spent.get(kind, 0.0) / max(done, 1)
        return total if any(self._left.values()) else None
