# SPDX-License-Identifier: Apache-2.0
"""Work in other processes: the same results, whatever happens to a worker."""

import importlib
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

from bitloop.dataset import Dataset
from bitloop.devices.interface import MemoryModel
from bitloop.errors import SearchError
from bitloop.graph.serialize import to_bytes
from bitloop.hw.config import preset
from bitloop.programs import export_module
from bitloop.search.cluster import Cluster
from bitloop.search.family import shared
from bitloop.search.loop import Settings, search
from bitloop.search.tasks import DeviceRecipe, pack_images, run_images
from bitloop.search.work import InProcess, Processes
from bitloop.sim.cycle_model.device import ModelDevice
from bitloop.sim.random_graphs import random_graph


@pytest.fixture(scope="module")
def calls():
    """Enough work that a worker can be killed in the middle of it."""
    graph = random_graph(2, 16, "network", 8)
    name = graph.inputs[0]
    codes = np.random.default_rng(0).integers(0, 256, (48, *graph.tensors[name].shape))
    parts = [shared(pack_images(codes[i : i + 4].astype(np.uint8))) for i in range(0, 48, 4)]
    assert graph.outputs and len(graph.outputs) == 1
    return [(shared(to_bytes(graph)), part) for part in parts]


@pytest.fixture(scope="module")
def expected(calls):
    return InProcess().map(run_images, calls)


@pytest.fixture(scope="module")
def cluster():
    with_two = Cluster(2)
    yield with_two
    with_two.close()


def equal(found, expected):
    return len(found) == len(expected) and all(
        (a == b).all() for a, b in zip(found, expected, strict=True)
    )


def test_other_processes_find_the_same_in_the_same_order(cluster, calls, expected):
    counts = []
    assert equal(cluster.map(run_images, calls, counts.append), expected)
    assert counts == list(range(1, len(calls) + 1))
    assert os.getpid() not in cluster.worker_processes and len(cluster.worker_processes) == 2


def test_a_worker_killed_in_the_middle_loses_nothing(cluster, calls, expected):
    before = cluster.worker_processes
    killed = []

    def kill(count):
        if count == 2:
            os.kill(before[0], signal.SIGKILL)
            killed.append(before[0])

    many = calls * 4
    assert equal(cluster.map(run_images, many, kill), expected * 4)
    assert killed
    deadline = time.monotonic() + 60
    while before[0] in cluster.worker_processes or len(cluster.worker_processes) < 2:
        assert time.monotonic() < deadline, "the worker was not started again"
        time.sleep(0.2)
    assert equal(cluster.map(run_images, calls), expected)


def test_errors_of_calls_come_back_as_they_are(cluster):
    with pytest.raises(SearchError, match="no such thing"):
        cluster.map(_fails, [("no such thing",)])


def _fails(message):
    raise SearchError(message)


_fails.__module__ = "builtins_of_test"  # sent by value: workers cannot import this file


def test_a_cluster_is_reached_by_its_address(cluster, calls, expected):
    address = cluster.client.scheduler_info()["address"]
    with Processes(1, scheduler=address) as work:
        assert equal(work.map(run_images, calls), expected)
    assert len(cluster.worker_processes) == 2  # it was there before, so it stays


def test_a_scheduler_that_is_not_there_is_said(monkeypatch):
    module = importlib.import_module("bitloop.search.cluster")
    monkeypatch.setattr(module, "CONNECT_SECONDS", 1)
    with pytest.raises(SearchError, match="cannot reach the scheduler at tcp://127.0.0.1:9"):
        Processes(1, scheduler="tcp://127.0.0.1:9").cluster()


def test_short_work_starts_no_processes(calls, expected):
    work = Processes(2, after=1e9)
    assert equal(work.map(run_images, calls), expected) and work._cluster is None


def test_a_search_whose_worker_is_killed_finds_the_same():
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(32, 4),
    )  # fmt: skip
    generator = np.random.default_rng(0)
    x = generator.normal(0, 1, (600, 3, 6, 6)).astype(np.float32)
    data = Dataset(x, generator.integers(0, 4, 600))
    program, config = export_module(network, x), preset("n4")
    killed = []

    def run(work, progress):
        recipe = DeviceRecipe("model", config, MemoryModel())
        result = search(
            program, data, config=config, device=ModelDevice(config), work=work, recipe=recipe,
            budget_ratio=0.6, settings=Settings(pareto=4), progress=progress,
        )  # fmt: skip
        found = result.as_dict()
        found.pop("seconds")
        return found

    with Processes(2, after=0) as work:

        def kill(message):
            if message.startswith("measuring") and work._cluster is not None and not killed:
                killed.append(work.cluster().worker_processes[0])
                os.kill(killed[0], signal.SIGKILL)

        distributed = run(work, kill)
    assert killed
    assert distributed == run(InProcess(), lambda message: None)


def test_workers_end_with_the_process_that_started_them(tmp_path):
    program = (
        "from bitloop.search.cluster import Cluster\n"
        "c = Cluster(1)\n"
        "print(c.processes[0].pid, *c.worker_processes, flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 2
        process.kill()
    deadline = time.monotonic() + 60
    while any(os.path.exists(f"/proc/{pid}/cmdline") and alive(pid) for pid in pids):
        assert time.monotonic() < deadline, pids
        time.sleep(0.2)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
