# SPDX-License-Identifier: Apache-2.0
"""The cache of builds: made once, whole, kept while in use, and never without bounds."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bitloop.sim.cache import (
    built_once,
    content_key,
    locked,
    prune,
    prune_unlocked,
    remove_abandoned,
    text_once,
)

HOUR = 3600.0

STUCK = """
import sys, time
from bitloop.sim.cache import built_once

def make(folder):
    (folder / "part").write_text("half")
    print("made", flush=True)
    time.sleep(60)

built_once("slow", "product", make)
"""


@pytest.fixture
def builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BITLOOP_CACHE", str(tmp_path))
    return tmp_path / "builds"


def put(text: str, calls: list[str] | None = None):
    def make(folder: Path) -> None:
        if calls is not None:
            calls.append(text)
        (folder / "product").write_text(text)

    return make


def age(folder: Path, hours: float) -> None:
    then = time.time() - hours * HOUR
    os.utime(folder, (then, then))


def names(builds: Path) -> set[str]:
    return {path.name for path in builds.iterdir() if path.suffix != ".lock"}


def test_a_build_is_made_once_even_by_many_at_once(builds: Path) -> None:
    calls: list[str] = []
    with ThreadPoolExecutor(6) as pool:
        found = set(pool.map(lambda _: built_once("a", "product", put("x", calls)), range(12)))
    assert calls == ["x"]
    (path,) = found
    assert path.read_text() == "x" and names(builds) == {"a"}


def test_a_build_that_fails_leaves_nothing_and_is_made_again(builds: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "product").write_text("half")
        raise RuntimeError("compiler")

    with pytest.raises(RuntimeError, match="compiler"):
        built_once("a", "product", fail)
    assert names(builds) == set()
    assert built_once("a", "product", put("whole")).read_text() == "whole"


def test_a_build_whose_product_was_deleted_is_made_again(builds: Path) -> None:
    built_once("a", "product", put("1")).unlink()
    assert built_once("a", "product", put("2")).read_text() == "2"


def test_what_a_killed_process_leaves_goes_with_the_next_build(builds: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE) as maker:
        assert maker.stdout is not None
        assert maker.stdout.readline() == b"made\n"
        built_once("other", "product", put("x"))
        (under_way,) = names(builds) - {"other"}
        assert under_way.startswith(".building-slow.")
        maker.send_signal(signal.SIGTERM)
    assert under_way in names(builds)
    remove_abandoned(builds)
    assert names(builds) == {"other"}


def test_builds_not_asked_for_longest_go_first(builds: Path) -> None:
    for index, name in enumerate("abcd"):
        built_once(name, "product", put("x" * 100))
        age(builds / name, 10 - index)
    prune(builds, most_bytes=400)
    assert names(builds) == set("abcd")
    built_once("a", "product", put("never made"))  # the oldest is asked for
    age(builds / "a", 2)
    prune(builds, most_bytes=250)
    assert names(builds) == set("ad")
    prune(builds, most_bytes=0)
    assert names(builds) == set()
    assert built_once("a", "product", put("again")).read_text() == "again"


def test_builds_asked_for_lately_or_held_by_someone_stay(builds: Path) -> None:
    for name in ("old", "held", "lately"):
        built_once(name, "product", put(name))
        age(builds / name, 5)
    built_once("lately", "product", put("never made"))
    with locked(builds / "held.lock"):
        prune(builds, most_bytes=0)
        assert names(builds) == {"held", "lately"}
    prune(builds, most_bytes=0)
    assert names(builds) == {"lately"}


def test_where_locks_tell_the_time_is_theirs(builds: Path) -> None:
    for index, name in enumerate("abc"):
        built_once(name, "product", put("x" * 100))
        age(builds / name, 5)
        age(builds / f"{name}.lock", 10 - index)
    (builds / "a" / "sub").mkdir()
    (builds / "a" / "sub" / "more").write_text("x" * 100)
    with locked(builds / "a.lock"):
        pass  # somebody asks
    prune(builds, most_bytes=300, locks_tell=True)
    assert names(builds) == {"a", "c"}
    prune(builds, most_bytes=0, locks_tell=True)
    assert names(builds) == {"a"}


def test_text_and_logs_go_oldest_first_and_lately_used_ones_stay(builds: Path) -> None:
    folder = builds.parent / "verilog"
    for index, name in enumerate(("first", "second", "third")):
        assert text_once(lambda name=name: name, lambda: "x" * 100) == "x" * 100
        age(folder / name, 10 - index)
    run = folder / "run"
    run.mkdir()
    (run / "log").write_text("x" * 100)
    age(run, 20)
    assert text_once(lambda: "first", lambda: "never made") == "x" * 100
    prune_unlocked(folder, most_bytes=400)
    assert names(folder) == {"first", "second", "third", "run"}
    prune_unlocked(folder, most_bytes=250)
    assert names(folder) == {"first", "third"}
    prune_unlocked(folder, most_bytes=0)
    assert names(folder) == {"first"}
    assert text_once(lambda: "third", lambda: "again") == "again"


def test_text_is_made_once_and_not_kept_if_its_sources_change_meanwhile(builds: Path) -> None:
    sources = ["old"]

    def name() -> str:
        return content_key(*sources)

    def edited() -> str:
        sources[0] = "new"
        return "of the old"

    assert text_once(name, edited) == "of the old"
    assert not list((builds.parent / "verilog").iterdir())
    assert text_once(name, lambda: "of the new") == "of the new"
    assert text_once(name, edited) == "of the new"


def test_keys_tell_parts_from_their_joint() -> None:
    assert len({content_key("ab", "c"), content_key("a", "bc"), content_key("abc")}) == 3
