# SPDX-License-Identifier: Apache-2.0
"""The folder of what takes long to make: in `verilog` text, in `builds` compiled simulations, in
`boards` netlists and routings, all named by hashes of what goes into them; in `runs` logs.

A build is made in a temporary folder and renamed into place, so a folder with its final name is
always complete. A lock file of each keeps two processes from making the same one twice, tells a
temporary folder under way from one whose maker is gone, and keeps a build from being removed while
someone asks for it. Lock files stay: one that is removed could be waited for.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bitloop.errors import DeviceError

MOST_BYTES = 4 << 30
"""Of each of these folders; beyond, what was not asked for longest is removed."""
KEPT_SECONDS = 3600.0
"""A build asked for so recently stays in any case: it may be about to be started."""

_UNDER_WAY, _REMOVED = ".building-", ".removed-"


def cache_folder() -> Path:
    """`$BITLOOP_CACHE`, else `~/.cache/bitloop` (or under `$XDG_CACHE_HOME`); made if missing."""
    named = os.environ.get("BITLOOP_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(named) if named else Path(base) / "bitloop"
    folder = folder.expanduser().absolute()
    if re.search(r"\s", str(folder)):
        raise DeviceError(
            f"the build cache {str(folder)!r} has a space in its path, which make cannot handle; "
            "set BITLOOP_CACHE to a folder without one"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DeviceError(
            f"cannot make the build cache {folder}: {error.strerror}; set BITLOOP_CACHE"
        ) from None
    return folder


def content_hash(*parts: str) -> str:
    """SHA-256 that changes with any part, 64 hex digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:".encode() + part.encode())
    return digest.hexdigest()


def content_key(*parts: str) -> str:
    """24 digits of `content_hash`, for names of files."""
    return content_hash(*parts)[:24]


def text_once(name: Callable[[], str], make: Callable[[], str]) -> str:
    """Text of the file `name()` in `verilog`, made if the cache lacks it. The name holds a hash of
    the sources: where they change while it is made, the text is not kept."""
    folder = cache_folder() / "verilog"
    folder.mkdir(exist_ok=True)
    path = folder / name()
    with contextlib.suppress(FileNotFoundError):
        text = path.read_text()
        with contextlib.suppress(OSError):  # a cache that nothing can be written to
            os.utime(path)  # it counts as used now
        return text
    text = make()
    if folder / name() == path:
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as handle:
            handle.write(text)
        os.replace(handle.name, path)
        prune_unlocked(folder)
    return text


@contextmanager
def locked(path: Path, how: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Keeps other processes that lock the same path waiting."""
    with open(path, "w") as handle:
        fcntl.flock(handle, how)
        yield


def built_once(name: str, product: str, make: Callable[[Path], None]) -> Path:
    """File `product` of the build `name`; `make` is called with an empty folder to make it in if
    the cache lacks it. What it raises leaves nothing behind."""
    builds = cache_folder() / "builds"
    builds.mkdir(exist_ok=True)
    final, lock = builds / name, _lock_of(builds, name)
    if _asked_for(final, product, lock):
        return final / product
    remove_abandoned(builds)
    with locked(lock):
        if not (final / product).is_file():
            folder = Path(tempfile.mkdtemp(prefix=f"{_UNDER_WAY}{name}.", dir=builds))
            try:
                make(folder)
                shutil.rmtree(final, ignore_errors=True)  # one whose product someone deleted
                folder.rename(final)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    prune(builds)
    return final / product


def remove_abandoned(builds: Path) -> None:
    """Removes the temporary folders of processes that ended without doing so themselves."""
    for folder in builds.glob(".*-*.*"):
        kind, _, rest = folder.name.partition("-")
        if f"{kind}-" in (_UNDER_WAY, _REMOVED):
            with _if_free(_lock_of(builds, rest.rpartition(".")[0])) as free:
                if free:
                    shutil.rmtree(folder, ignore_errors=True)


def prune(
    builds: Path,
    most_bytes: int = MOST_BYTES,
    kept_seconds: float = KEPT_SECONDS,
    locks_tell: bool = False,
) -> None:
    """Removes builds, those not asked for longest first, until the rest has `most_bytes` at most;
    none that was asked for in the last `kept_seconds`, or that another process holds. `locks_tell`:
    when one was asked for is when its lock was last taken, not the time of its folder."""

    def asked(folder: Path) -> float:
        return (_lock_of(builds, folder.name) if locks_tell else folder).stat().st_mtime

    found = []
    for folder in builds.iterdir():
        if folder.is_dir() and not folder.name.startswith("."):
            with contextlib.suppress(OSError):  # another process removes it as well
                found.append((asked(folder), _size(folder), folder))
    total = sum(size for _, size, _ in found)
    for _, size, folder in sorted(found):
        if total <= most_bytes:
            break
        with _if_free(_lock_of(builds, folder.name)) as free, contextlib.suppress(OSError):
            # The time of use again, now that nobody can ask.
            if free and asked(folder) <= time.time() - kept_seconds:
                aside = Path(tempfile.mkdtemp(prefix=f"{_REMOVED}{folder.name}.", dir=builds))
                folder.rename(aside)  # replaces the empty one
                shutil.rmtree(aside, ignore_errors=True)
                total -= size


def prune_unlocked(
    folder: Path, most_bytes: int = MOST_BYTES, kept_seconds: float = KEPT_SECONDS
) -> None:
    """The same for files and folders that have no locks, by the time of their last change: who
    reads one must bear that it is gone."""
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            found.append((path.stat().st_mtime, _size(path), path))
    total = sum(size for _, size, _ in found)
    for changed, size, path in sorted(found):
        if total <= most_bytes or changed > time.time() - kept_seconds:
            break
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        total -= size


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(each.lstat().st_size for each in files if not each.is_dir())


def _lock_of(builds: Path, name: str) -> Path:
    return builds / f"{name}.lock"


def _asked_for(final: Path, product: str, lock: Path) -> bool:
    """Whether the build is there; if so it counts as used now."""
    if not (final / product).is_file():
        return False
    try:
        with locked(lock, fcntl.LOCK_SH):
            os.utime(final)
    except OSError:  # gone meanwhile, or in a cache that nothing can be written to
        pass
    return (final / product).is_file()


@contextmanager
def _if_free(lock: Path) -> Iterator[bool]:
    """Holds the lock if nobody else does, and says whether it is held. Its time stays as it is."""
    with open(lock, "a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
