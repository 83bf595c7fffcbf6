# SPDX-License-Identifier: Apache-2.0
"""The measurement store: what is found is what was measured, whoever else writes or dies."""

import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bitloop.compile import compile_graph
from bitloop.devices.interface import MemoryModel, Profile
from bitloop.devices.reference import ReferenceDevice
from bitloop.errors import BinaryError, StoreError
from bitloop.hw.config import preset
from bitloop.sim.cycle_model.device import ModelDevice
from bitloop.sim.device import VerilatorDevice
from bitloop.sim.random_graphs import random_graph, random_inputs
from bitloop.sim.store import Conditions, Entry, Store
from bitloop.sim.stored import StoredDevice, conditions, device_of, measured_again, stored

CONFIG = preset("n4")
CONDITIONS = Conditions("model", "a" * 64, "b" * 64, MemoryModel(), 8, "n4")


def an_entry(content: bytes, conditions=CONDITIONS) -> Entry:
    import hashlib

    profile = Profile(
        100 + len(content), {"compute": 100, "drain": len(content)}, 3, (90, 4), 3 + len(content)
    )
    digest = hashlib.sha256(content).hexdigest()
    return Entry(conditions, digest, "net", ("a", "b"), profile, 0.5)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "s.sqlite")


@pytest.fixture(scope="module")
def binary():
    return compile_graph(random_graph(1, CONFIG.lanes, "network", 8), CONFIG)


def test_what_was_put_is_found_again_and_only_under_its_own_conditions(store):
    entry = an_entry(b"program")
    assert store.get(CONDITIONS, entry.program) is None
    store.put(entry, b"program")
    found = Store(store.path).get(CONDITIONS, entry.program)
    assert found.profile == entry.profile and found.layers == entry.layers
    others = {
        "device": "verilator", "hardware": "c" * 64, "harness": "d" * 64, "outstanding": 4,
        "memory": MemoryModel(41, 4), "core": "n8",
    }  # fmt: skip
    assert set(others) == {field.name for field in dataclasses.fields(Conditions)}
    for name, value in others.items():
        changed = dataclasses.replace(CONDITIONS, **{name: value})
        assert store.get(changed, entry.program) is None, name
    assert store.get(CONDITIONS, an_entry(b"another").program) is None


def test_a_measurement_and_another_program_are_refused(store):
    with pytest.raises(StoreError, match="belong together"):
        store.put(an_entry(b"program"), b"another")


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE measurements SET record = replace(record, '107', '106')",
        "UPDATE measurements SET sha256 = 'x'",
        "UPDATE measurements SET key = 'x'",
        "UPDATE measurements SET record = 'no json'",
        "UPDATE measurements SET record = x'00ff'",
    ],
)
def test_a_damaged_row_is_not_believed(store, change):
    entry = an_entry(b"program")
    store.put(entry, b"program")
    with sqlite3.connect(store.path) as connection:
        connection.execute(change)
    connection.close()
    assert store.get(CONDITIONS, entry.program) is None
    assert list(store.entries()) == []
    (damaged,) = store.check().damaged
    store.remove([damaged])
    assert store.check().entries == 0 and store.program(entry.program) is None


def test_a_record_whose_sums_are_wrong_is_not_believed_even_with_its_hash(store):
    entry = an_entry(b"program")
    wrong = dataclasses.replace(entry, profile=dataclasses.replace(entry.profile, tail=1))
    store.put(wrong, b"program")
    assert store.get(CONDITIONS, entry.program) is None
    assert store.check().damaged == (entry.key,)


def test_a_damaged_program_is_found_and_not_handed_out(store):
    entry = an_entry(b"program")
    store.put(entry, b"program")
    with sqlite3.connect(store.path) as connection:
        connection.execute("UPDATE programs SET content = x'0011'")
    connection.close()
    assert store.program(entry.program) is None
    assert store.check().damaged == (entry.key,)


def test_a_file_that_is_no_store_is_refused_by_name(tmp_path):
    path = tmp_path / "s.sqlite"
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(StoreError, match="s.sqlite.*delete it"):
        Store(path)


def test_a_store_of_another_version_is_refused(store):
    with sqlite3.connect(store.path) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(StoreError, match="format 99"):
        Store(store.path)


def test_results_come_back_and_damaged_ones_do_not(store):
    store.keep("k", "score", b"content")
    assert store.result("k") == b"content" and store.result("other") is None
    with sqlite3.connect(store.path) as connection:
        connection.execute("UPDATE results SET content = x'00'")
    connection.close()
    assert store.result("k") is None
    assert store.check().damaged == ("k",)


def test_prune_removes_what_was_last_used_before(store):
    store.put(an_entry(b"old"), b"old")
    store.keep("k", "score", b"content")
    time.sleep(0.02)
    middle = time.time()
    time.sleep(0.02)
    store.put(an_entry(b"new"), b"new")
    assert store.prune(middle) == 2
    assert [entry.program for entry in store.entries()] == [an_entry(b"new").program]
    assert store.result("k") is None and store.program(an_entry(b"old").program) is None
    assert store.check().damaged == ()


def _write(path, number, rounds):
    store = Store(path)
    for i in range(rounds):
        content = f"{i % 10} {number if i % 2 else 0}".encode()
        store.put(an_entry(content), content)
        assert store.get(CONDITIONS, an_entry(content).program) is not None
        store.keep(f"{number} {i}", "test", content)


def _writer(path, number, rounds) -> subprocess.Popen:
    """`_write` in a process of its own."""
    return subprocess.Popen([sys.executable, __file__, str(path), str(number), str(rounds)])


def test_concurrent_writers_lose_nothing(tmp_path):
    path = tmp_path / "s.sqlite"
    writers = [_writer(path, n, 20) for n in range(4)]
    assert [process.wait(120) for process in writers] == [0] * 4
    found = Store(path).check()
    assert found.damaged == ()
    assert found.results == 4 * 20
    assert found.entries == 5 + 4 * 5  # even rounds are one program for all, odd ones each its own


def test_writers_killed_at_any_moment_leave_a_whole_store(tmp_path):
    path = tmp_path / "s.sqlite"
    generator = np.random.default_rng(0)
    survivors = 0
    for number in range(6):
        process = _writer(path, number, 100_000)
        while not path.exists() or Store(path).check().results == survivors:
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(float(generator.uniform(0, 0.1)))
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
        found = Store(path).check()
        assert found.damaged == () and found.results > survivors
        survivors = found.results


def test_a_device_measures_a_program_once(store, binary):
    device = stored(ModelDevice(CONFIG), store)
    assert isinstance(device, StoredDevice)
    device.load(binary)
    profile = device.profile()
    again = stored(ModelDevice(CONFIG), Store(store.path))
    again.load(binary)
    assert again.profile() == profile
    assert (device.measured, device.reused, again.measured, again.reused) == (1, 0, 0, 1)
    fresh = ModelDevice(CONFIG)
    fresh.load(binary)
    assert fresh.profile() == profile

    slower = stored(ModelDevice(CONFIG, MemoryModel(latency=400)), store)
    slower.load(binary)
    assert slower.profile().cycles > profile.cycles and slower.measured == 1


def test_a_program_known_still_runs(store, binary):
    graph = random_graph(1, CONFIG.lanes, "network", 8)
    for _ in range(2):
        device = stored(ModelDevice(CONFIG), store)
        device.load(binary)
        device.profile()
        codes = random_inputs(graph, 0)
        outputs, _ = device.run(codes)
        reference = ReferenceDevice()
        reference.load(binary)
        expected, _ = reference.run(codes)
        assert all((outputs[name] == expected[name]).all() for name in expected)


def test_conditions_tell_devices_and_cores_apart():
    found = {
        conditions(ModelDevice(CONFIG)),
        conditions(VerilatorDevice(CONFIG)),
        conditions(ModelDevice(preset("n8"))),
        conditions(ModelDevice(CONFIG, outstanding=2)),
    }
    assert len(found) == 4
    assert conditions(ModelDevice(CONFIG)) == conditions(ModelDevice(CONFIG))
    assert conditions(ReferenceDevice()) is None
    assert isinstance(stored(ReferenceDevice(), None), ReferenceDevice)


def test_a_binary_of_another_core_is_refused_before_the_store_is_asked(store, binary):
    with pytest.raises(BinaryError, match="compiled for core"):
        stored(ModelDevice(preset("n8")), store).load(binary)


def test_measuring_again_finds_a_figure_that_was_changed(store, binary):
    device = stored(ModelDevice(CONFIG), store)
    device.load(binary)
    device.profile()
    (entry,) = store.entries()
    same = device_of(entry, CONFIG)
    assert measured_again(store, entry, same) is None
    wrong = dataclasses.replace(
        entry,
        profile=dataclasses.replace(
            entry.profile, cycles=entry.profile.cycles + 1, tail=entry.profile.tail + 1
        ),
    )
    assert "cycles" in measured_again(store, wrong, same)
    changed = dataclasses.replace(
        entry, conditions=dataclasses.replace(entry.conditions, hardware="f" * 64)
    )
    assert device_of(changed, CONFIG) is None


if __name__ == "__main__":
    _write(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
