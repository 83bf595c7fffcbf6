# SPDX-License-Identifier: Apache-2.0
"""`bitloop store`, and what `bitloop search` keeps there."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from bitloop.sim.cache import cache_folder

from .test_cli import assert_refused, invoke


@pytest.fixture
def fresh_store(tmp_path, monkeypatch):
    """A cache of its own, with the builds of the common one."""
    (tmp_path / "cache").mkdir()
    for name in ("builds", "verilog"):
        common = cache_folder() / name
        common.mkdir(exist_ok=True)
        (tmp_path / "cache" / name).symlink_to(common)
    monkeypatch.setenv("BITLOOP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "measurements.sqlite"


def search_arguments(network, output):
    return [
        "search", network.float, "--data", network.data, "--budget-ratio", "0.8", "--preset", "n4",
        "--device", "model", "--workers", "1", "-o", output,
    ]  # fmt: skip


@pytest.fixture
def searched(network, tmp_path, fresh_store):
    result = invoke(*search_arguments(network, tmp_path / "m.pt2"), "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_search_measures_once_and_the_next_one_nothing(searched, network, tmp_path):
    assert searched["measured"] == searched["evaluations"] >= 3
    again = invoke(*search_arguments(network, tmp_path / "m2.pt2"), "--json")
    found = json.loads(again.stdout)
    assert found["measured"] == 0
    for key in set(found) - {"measured", "seconds"}:
        assert found[key] == searched[key], key
    fresh = invoke(*search_arguments(network, tmp_path / "m3.pt2"), "--json", "--fresh")
    assert json.loads(fresh.stdout)["measured"] == searched["measured"]


def test_list_check_and_prune(searched, fresh_store):
    listed = json.loads(invoke("store", "--json").stdout)
    assert len(listed) == searched["measured"]
    assert searched["cycles"] in [entry["cycles"] for entry in listed]
    text = invoke("store").stdout
    assert f"{searched['cycles']:,}" in text and "n4" in text and "model" in text

    result = invoke("store", "check", "--verify", "2", "--json")
    assert result.exit_code == 0, result.output
    checked = json.loads(result.stdout)
    assert checked["damaged"] == checked["different"] == [] and checked["measured_again"] == 2

    assert json.loads(invoke("store", "prune", "--older-than", "1", "--json").stdout) == {
        "removed": 0
    }
    assert json.loads(invoke("store", "prune", "--stale", "--json").stdout) == {"removed": 0}
    removed = json.loads(invoke("store", "prune", "--older-than", "0", "--json").stdout)["removed"]
    assert removed >= searched["measured"]
    assert json.loads(invoke("store", "--json").stdout) == []


def test_check_finds_what_was_damaged(searched, fresh_store):
    with sqlite3.connect(fresh_store) as connection:
        connection.execute("UPDATE measurements SET record = replace(record, ':1', ':2')")
    connection.close()
    result = invoke("store", "check")
    assert result.exit_code == 1 and "damaged: " in result.stdout


@pytest.mark.parametrize(
    "arguments, word",
    [
        (("prune",), "--older-than"),
        (("list", "--verify", "1"), "check"),
        (("check", "--stale"), "prune"),
        (("list", "--path", "nowhere.sqlite"), "no such store"),
    ],
)
def test_options_that_do_not_go_together_are_refused(arguments, word, fresh_store):
    assert_refused(invoke("store", *arguments), word)


def test_a_file_that_is_no_store_is_refused(tmp_path, fresh_store):
    path = tmp_path / "x.sqlite"
    path.write_bytes(b"x" * 5000)
    assert_refused(invoke("store", "--path", path), "x.sqlite")
    fresh_store.write_bytes(b"x" * 5000)
    assert_refused(invoke("store"), "delete it")


def test_ctrl_c_keeps_what_was_done_and_a_rerun_goes_on(network, tmp_path, fresh_store):
    arguments = [str(a) for a in search_arguments(network, tmp_path / "m.pt2")]
    command = [sys.executable, "-m", "bitloop", *arguments, "--pareto", "6"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        for line in process.stderr:
            if line.startswith("measuring 3 networks"):
                break
        deadline = time.monotonic() + 60
        while kept(fresh_store) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        process.wait(120)
    assert "Traceback" not in rest
    # Between the signal and its handling the search may have ended.
    assert process.returncode in (0, 130), rest
    if process.returncode == 130:
        assert "goes on from here" in rest
    before = kept(fresh_store)
    assert before >= 4
    again = invoke(*arguments, "--pareto", "6", "--json")
    assert again.exit_code == 0, again.output
    found = json.loads(again.stdout)
    assert found["complete"] and os.path.isfile(tmp_path / "m.pt2")
    whole = invoke(*search_arguments(network, tmp_path / "w.pt2"), "--pareto", "6", "--fresh",
                   "--json")  # fmt: skip
    expected = json.loads(whole.stdout)
    for key in set(found) - {"measured", "seconds"}:
        assert found[key] == expected[key], key


def kept(path):
    """Results and measurements in the store."""
    try:
        connection = sqlite3.connect(path, timeout=10)
        try:
            return sum(
                connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
                for table in ("results", "measurements")
            )
        finally:
            connection.close()
    except sqlite3.OperationalError:
        return 0


def test_a_page_is_written_beside_the_network(network, tmp_path, fresh_store):
    page = tmp_path / "r.html"
    result = invoke(
        *search_arguments(network, tmp_path / "m.pt2"), "--html", page, "--rivals", "--clock-mhz",
        "50",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert page.read_text().startswith("<!DOCTYPE html>") and f"wrote {page}" in result.stdout
    for word in ("Pareto front", "same budget by other methods", "50 MHz", "seconds: calibration"):
        assert word in result.stdout
    same = search_arguments(network, page)
    assert_refused(invoke(*same, "--html", page), "each a file of its own")


@pytest.mark.parametrize(
    "extra, word",
    [
        (("--budget-ms", "1"), "one budget"),
        (("--sensitivity", "magic"), "kl"),
        (("--pareto", "1"), "2 or more"),
        (("--device", "magic"), "unknown device"),
        (("--device", "serial:/dev/null", "--verify"), "memory of its own"),
    ],
)
def test_settings_without_sense_are_refused_at_once(network, tmp_path, extra, word):
    assert_refused(invoke(*search_arguments(network, tmp_path / "m.pt2"), *extra), word)
