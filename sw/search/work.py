# SPDX-License-Identifier: Apache-2.0
"""Where work runs: in this process, or through dask.distributed in local processes or on a cluster.

The same calls give the same results in the same order wherever they run, so a search does not
depend on how many workers there are, which of them is faster, or whether one dies.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from .cluster import Cluster

Done = Callable[[int], None]
"""Called with how many calls of a batch are done."""

WORTH_PROCESSES = 4.0
"""Seconds of work in this process after which others are started: it takes them about as long."""


@dataclass(frozen=True, eq=False)
class Shared:
    """Bytes that many calls need: sent to a worker once, by name."""

    content: bytes
    name: str
    """SHA-256 of the content."""


class Work(Protocol):
    def map(
        self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], done: Done = ...
    ) -> list[Any]:
        """The results of `function(*call)` for each of `calls`, in order. `Shared` arguments arrive
        as their bytes. Functions must not depend on anything else, nor change anything."""

    def close(self) -> None:
        """Ends the processes started, if any."""


def nothing(count: int) -> None:
    """Shows nothing."""


class InProcess:
    """Runs everything here, one call after the other."""

    def map(
        self,
        function: Callable[..., Any],
        calls: Sequence[tuple[Any, ...]],
        done: Done = nothing,
    ) -> list[Any]:
        results = []
        for call in calls:
            results.append(function(*_contents(call)))
            done(len(results))
        return results

    def close(self) -> None:
        pass

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Processes:
    """Runs calls here until they have taken `after` seconds, then in `count` processes of this
    machine or, given an address, on the cluster there, from the first call on."""

    def __init__(
        self, count: int, scheduler: str | None = None, after: float = WORTH_PROCESSES
    ) -> None:
        self.count, self.scheduler, self.after = count, scheduler, after
        self._here = InProcess()
        self._spent = 0.0
        self._cluster: Cluster | None = None

    def map(
        self,
        function: Callable[..., Any],
        calls: Sequence[tuple[Any, ...]],
        done: Done = nothing,
    ) -> list[Any]:
        results: list[Any] = []
        while self._stays_here(len(calls) - len(results)):
            start = time.monotonic()
            results += self._here.map(function, calls[len(results) : len(results) + 1])
            self._spent += time.monotonic() - start
            done(len(results))
        if len(results) < len(calls):
            before = len(results)
            rest = calls[before:]
            results += self.cluster().map(function, rest, lambda count: done(before + count))
        return results

    def cluster(self) -> Cluster:
        """The processes, started if they are not yet."""
        if self._cluster is None:
            from .cluster import Cluster

            self._cluster = Cluster(self.count, self.scheduler)
        return self._cluster

    def close(self) -> None:
        if self._cluster is not None:
            self._cluster.close()
            self._cluster = None

    def __enter__(self) -> Processes:
        if self.scheduler is not None:
            self.cluster()  # an address where nobody is should be known before any work
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _stays_here(self, left: int) -> bool:
        if not left or self.scheduler is not None:
            return False
        if self._cluster is not None:
            return False
        return self.count < 2 or left < 2 or self._spent < self.after


def _contents(call: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(part.content if isinstance(part, Shared) else part for part in call)
