# SPDX-License-Identifier: Apache-2.0
"""The measurement store: cycles of compiled programs, kept for every later search.

A SQLite file in write-ahead mode. A measurement is keyed by all that its cycles depend on (the kind
of device and the hash of what counts there, the memory, the program), so a stale figure cannot be
found, only an old one that still holds. Beside measurements lie results of other expensive work,
keyed by hashes of their own (`Results`), from which an interrupted search goes on.

Every call opens the file, does one transaction and closes it: any number of processes may read and
write at once, and one that is killed leaves either the whole transaction or nothing of it. A row
carries a SHA-256 of itself and is not believed without.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitloop.devices.interface import MemoryModel, Profile
from bitloop.errors import StoreError

from .cache import cache_folder, locked

VERSION = 1
WAIT_SECONDS = 60.0
"""How long a transaction waits for those of other processes."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS measurements (
    key TEXT PRIMARY KEY, record TEXT NOT NULL, sha256 TEXT NOT NULL,
    measured REAL NOT NULL, used REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS programs (
    sha256 TEXT PRIMARY KEY, content BLOB NOT NULL, size INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS results (
    key TEXT PRIMARY KEY, kind TEXT NOT NULL, content BLOB NOT NULL, sha256 TEXT NOT NULL,
    used REAL NOT NULL);
"""


@dataclass(frozen=True)
class Conditions:
    """What the cycles of a program depend on besides itself."""

    device: str
    """`verilator`, `model` or the name of a board."""
    hardware: str
    """SHA-256 of what counts the cycles: the emitted Verilog; for the model its sources and the
    core's sizes; for a board its build."""
    harness: str
    """SHA-256 of what stands for the memory: the simulation's sources; empty for a board."""
    memory: MemoryModel
    outstanding: int
    """Bursts the memory accepts before it answers the first, each way."""
    core: str
    """Name of the core's configuration, for people; the fingerprint is in the program."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "device": self.device,
            "hardware": self.hardware,
            "harness": self.harness,
            "latency": self.memory.latency,
            "bytes_per_cycle": self.memory.bytes_per_cycle,
            "outstanding": self.outstanding,
            "core": self.core,
        }

    @staticmethod
    def of(found: dict[str, Any]) -> Conditions:
        """From `as_dict`."""
        return Conditions(
            found["device"],
            found["hardware"],
            found["harness"],
            MemoryModel(found["latency"], found["bytes_per_cycle"]),
            found["outstanding"],
            found["core"],
        )

    def key(self, program: str) -> str:
        """The key of the measurement of the program with this SHA-256."""
        return _sha256(_canonical({**self.as_dict(), "program": program}).encode())


@dataclass(frozen=True)
class Entry:
    """One measurement."""

    conditions: Conditions
    program: str
    """SHA-256 of the binary's bytes."""
    network: str
    layers: tuple[str, ...]
    profile: Profile
    seconds: float
    """What it took to load and run."""
    measured: float = 0.0
    """Seconds since 1970."""
    used: float = 0.0

    @property
    def key(self) -> str:
        return self.conditions.key(self.program)

    def as_dict(self) -> dict[str, Any]:
        return {
            "conditions": self.conditions.as_dict(),
            "program": self.program,
            "network": self.network,
            "layers": list(self.layers),
            "cycles": self.profile.cycles,
            "causes": self.profile.causes,
            "head": self.profile.head,
            "layer_cycles": list(self.profile.layer_cycles),
            "tail": self.profile.tail,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Found:
    """What a check found."""

    entries: int
    results: int
    damaged: tuple[str, ...]
    """Keys of rows whose hash, key or sums are wrong."""


class Store:
    """The file at `path`, made if missing; `$BITLOOP_CACHE/measurements.sqlite` by default."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or cache_folder() / "measurements.sqlite"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Two processes that turn on write-ahead mode at once make one of them fail.
            with locked(self.path.with_suffix(".lock")), self._connection() as connection:
                connection.execute("PRAGMA journal_mode=WAL")
                version = connection.execute("PRAGMA user_version").fetchone()[0]
                if version not in (0, VERSION):
                    raise StoreError(
                        f"{self.path}: format {version} of another version of Bitloop; name "
                        "another file, or delete this one"
                    )
                connection.executescript(f"{_SCHEMA}\nPRAGMA user_version={VERSION};")
        except OSError as error:
            raise StoreError(f"{self.path}: {error.strerror}; set BITLOOP_CACHE") from None

    def get(self, conditions: Conditions, program: str) -> Entry | None:
        """The measurement of a program, None where there is none, or only a damaged one."""
        key = conditions.key(program)
        with self._connection() as connection:
            row = connection.execute("SELECT * FROM measurements WHERE key = ?", (key,)).fetchone()
            entry = _entry(row) if row else None
            if entry is not None and _is_long_ago(entry.used):
                connection.execute(
                    "UPDATE measurements SET used = ? WHERE key = ?", (time.time(), key)
                )
        return entry

    def put(self, entry: Entry, program: bytes) -> None:
        """Keeps a measurement and the program, to measure again; replaces one of the same key."""
        if _sha256(program) != entry.program:
            raise StoreError(f"{entry.network}: measurement and program do not belong together")
        record = _canonical(entry.as_dict())
        now = time.time()
        packed = zlib.compress(program, 1)
        with self._transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO measurements VALUES (?, ?, ?, ?, ?)",
                (entry.key, record, _sha256(record.encode()), now, now),
            )
            connection.execute(
                "INSERT OR IGNORE INTO programs VALUES (?, ?, ?)",
                (entry.program, packed, len(program)),
            )

    def program(self, sha256: str) -> bytes | None:
        """The bytes of a program that was measured; None where they are missing or damaged."""
        with self._connection() as connection:
            row = connection.execute(
                "SELECT content, size FROM programs WHERE sha256 = ?", (sha256,)
            ).fetchone()
        if row is None:
            return None
        try:
            unpacker = zlib.decompressobj()
            content = unpacker.decompress(row[0], row[1] + 1)
        except (zlib.error, TypeError, ValueError):
            return None
        return content if _sha256(content) == sha256 else None

    def entries(self) -> Iterator[Entry]:
        """All measurements that are whole, oldest first."""
        with self._connection() as connection:
            rows = connection.execute("SELECT * FROM measurements ORDER BY measured").fetchall()
        for row in rows:
            entry = _entry(row)
            if entry is not None:
                yield entry

    def check(self) -> Found:
        """Reads everything. Raises `StoreError` where the file itself is damaged."""
        with self._connection() as connection:
            (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            if verdict != "ok":
                raise StoreError(f"{self.path}: damaged ({verdict}); delete it and measure again")
            rows = connection.execute("SELECT * FROM measurements").fetchall()
            results = connection.execute("SELECT key, content, sha256 FROM results").fetchall()
        damaged = [row[0] for row in rows if _entry(row) is None]
        damaged += [
            key
            for key, content, digest in results
            if not isinstance(content, bytes) or _sha256(content) != digest
        ]
        damaged += [
            entry.key
            for row in rows
            if (entry := _entry(row)) is not None and self.program(entry.program) is None
        ]
        return Found(len(rows), len(results), tuple(damaged))

    def remove(self, keys: list[str]) -> None:
        """Removes measurements and results by key, and programs that none is left of."""
        with self._transaction() as connection:
            for key in keys:
                connection.execute("DELETE FROM measurements WHERE key = ?", (key,))
                connection.execute("DELETE FROM results WHERE key = ?", (key,))
            connection.execute(
                "DELETE FROM programs WHERE sha256 NOT IN "
                "(SELECT json_extract(record, '$.program') FROM measurements "
                "WHERE json_valid(record))"
            )

    def prune(self, before: float) -> int:
        """Removes what was last used before this time, in seconds since 1970, and frees the disk;
        returns how many measurements and results that were."""
        with self._connection() as connection:
            keys = [
                key
                for table in ("measurements", "results")
                for (key,) in connection.execute(
                    f"SELECT key FROM {table} WHERE used < ?", (before,)
                )
            ]
        self.remove(keys)
        with self._connection() as connection:
            connection.execute("VACUUM")
        return len(keys)

    def result(self, key: str) -> bytes | None:
        """What was kept under `key`; None where nothing was, or it is damaged."""
        with self._connection() as connection:
            row = connection.execute(
                "SELECT content, sha256, used FROM results WHERE key = ?", (key,)
            ).fetchone()
            if row is None or not isinstance(row[0], bytes) or _sha256(row[0]) != row[1]:
                return None
            if _is_long_ago(row[2]):
                connection.execute("UPDATE results SET used = ? WHERE key = ?", (time.time(), key))
        return row[0]

    def keep(self, key: str, kind: str, content: bytes) -> None:
        """Keeps `content` under `key`; `kind` says to people what it is."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?)",
                (key, kind, content, _sha256(content), time.time()),
            )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """A connection that writes all of the block or nothing."""
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """A connection; what fails in it is undone. SQLite's errors become `StoreError`s."""
        connection = None
        try:
            connection = sqlite3.connect(self.path, timeout=WAIT_SECONDS, isolation_level=None)
            connection.execute("PRAGMA synchronous=NORMAL")
            yield connection
        except sqlite3.DatabaseError as error:
            raise StoreError(
                f"{self.path}: the measurement store cannot be used ({error}); delete it and "
                "measure again, or set BITLOOP_CACHE to another folder"
            ) from None
        finally:
            if connection is not None:
                connection.close()


def _entry(row: tuple[Any, ...]) -> Entry | None:
    """The measurement in a row; None where its hash, its key or the sums of its counters are
    wrong, or it cannot be read at all."""
    key, record, digest, measured, used = row
    try:
        if _sha256(record.encode()) != digest:
            return None
        found = json.loads(record)
        profile = Profile(
            found["cycles"],
            dict(found["causes"]),
            found["head"],
            tuple(found["layer_cycles"]),
            found["tail"],
        )
        entry = Entry(
            Conditions.of(found["conditions"]),
            found["program"],
            found["network"],
            tuple(found["layers"]),
            profile,
            found["seconds"],
            measured,
            used,
        )
        whole = (
            entry.key == key
            and profile.head + sum(profile.layer_cycles) + profile.tail == profile.cycles
            and sum(profile.causes.values()) == profile.cycles
            and len(profile.layer_cycles) == len(entry.layers)
        )
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return None
    return entry if whole else None


def _is_long_ago(used: object) -> bool:
    """Whether the time of last use is worth writing again: reading need not wait for writers."""
    return not isinstance(used, float) or time.time() - used > 3600


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
