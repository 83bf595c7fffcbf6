# SPDX-License-Identifier: Apache-2.0
"""Work through dask.distributed: processes of this machine, or a cluster's scheduler.

A worker that dies takes nothing with it: the scheduler gives its calls to another, and bytes that
many calls share are themselves results of a call, made again where they were lost.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import dask
from distributed import Client, LocalCluster, as_completed
from distributed.scheduler import KilledWorker

from ..errors import BitloopError, SearchError
from .memo import sources
from .work import Done, Shared, nothing

CONNECT_SECONDS = 10
START_SECONDS = 180
"""Processes started here may take long to come up where the machine is busy."""
DEATHS = 10
"""Workers that may die on one call before it is given up."""
SINGLE_THREADED = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Worker processes share the cores; within one, a second thread would only contend."""


class Cluster:
    """`count` worker processes of this machine, or those of the scheduler at an address."""

    def __init__(self, count: int, scheduler: str | None = None) -> None:
        self._local: LocalCluster | None = None
        self.processes: list[subprocess.Popen[bytes]] = []
        if scheduler is None:
            # Workers are started as programs of their own: multiprocessing would run the user's
            # script again in each of them, and a key press of Ctrl-C would reach them.
            with dask.config.set(
                {
                    "distributed.scheduler.allowed-failures": DEATHS,
                    "distributed.admin.log-length": 0,
                }
            ):
                self._local = LocalCluster(
                    n_workers=0, dashboard_address=":0", silence_logs=50, host="127.0.0.1"
                )
            address = self._local.scheduler_address
            self.processes = [_worker(address) for _ in range(count)]
        else:
            address = scheduler
        try:
            self.client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
            if scheduler is None:
                self.client.wait_for_workers(count, timeout=START_SECONDS)
        except (OSError, TimeoutError, ValueError) as error:
            self.close()
            raise SearchError(
                f"cannot reach the scheduler at {address}: {error or type(error).__name__}; start "
                "one with `dask scheduler`, and workers with `dask worker ADDRESS`"
            ) from None
        except BaseException:
            self.close()
            raise
        self._shared: dict[str, Any] = {}

    @property
    def worker_processes(self) -> list[int]:
        """Process ids of the workers as the scheduler knows them."""
        return list(self.client.run(os.getpid).values())

    def map(
        self,
        function: Callable[..., Any],
        calls: Sequence[tuple[Any, ...]],
        done: Done = nothing,
    ) -> list[Any]:
        """As `Work.map`. Raises the errors of the calls, and `SearchError` where the cluster is
        lost or runs other sources."""
        if self._local is None and not self.client.scheduler_info()["workers"]:
            raise SearchError(
                "the scheduler has no workers: start some with `dask worker ADDRESS`, in an "
                "environment with this version of Bitloop"
            )
        futures = []
        try:
            for call in calls:
                parts = [self._argument(part) for part in call]
                # Elsewhere there may be another version; processes started here have this one.
                elsewhere = [_checked, function, sources()] if self._local is None else [function]
                futures.append(self.client.submit(*elsewhere, *parts, pure=False))
            for finished, _ in enumerate(
                as_completed(futures, loop=self.client.loop, raise_errors=False), 1
            ):
                done(finished)
            return self.client.gather(futures)
        except KilledWorker as error:
            raise SearchError(f"workers died on the same work again and again: {error}") from None
        except (OSError, TimeoutError) as error:
            if isinstance(error, BitloopError):
                raise
            raise SearchError(
                f"the cluster is lost ({error}); what was measured is kept, and the same command "
                "goes on from there"
            ) from None
        finally:
            self.client.cancel([f for f in futures if not f.done()])

    def close(self) -> None:
        """Ends the processes started here; a cluster that was there before stays."""
        client = getattr(self, "client", None)
        if client is not None:
            client.close(timeout=5)
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes = []
        if self._local is not None:
            self._local.close(timeout=5)
            self._local = None

    def _argument(self, part: Any) -> Any:
        if not isinstance(part, Shared):
            return part
        if part.name not in self._shared:
            self._shared[part.name] = self.client.submit(
                _same, part.content, key=f"bitloop-{part.name}"
            )
        return self._shared[part.name]


def _worker(address: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1"]
    command += ["--no-dashboard", "--death-timeout", str(START_SECONDS), "--memory-limit", "0"]
    return subprocess.Popen(
        command,
        env={**os.environ, **dict.fromkeys(SINGLE_THREADED, "1")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _same(content: bytes) -> bytes:
    return content


def _checked(function: Callable[..., Any], expected: str, *arguments: Any) -> Any:
    """`function(*arguments)`, if this worker runs the sources that the search runs."""
    if sources() != expected:
        raise SearchError(
            f"a worker on {os.uname().nodename} runs another version of Bitloop or of its "
            "libraries: results would not be the same; install the same there"
        )
    return function(*arguments)
