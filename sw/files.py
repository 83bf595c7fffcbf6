# SPDX-License-Identifier: Apache-2.0
"""Writing files so that a failure leaves nothing half-written behind."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it to `path` if the block succeeds, removes
    it if not. Missing folders are made, links are followed. Raises `OSError` naming `path` if
    something other than a file is there, before any work is done."""
    path = check_output(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes files private
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_output(path: Path) -> Path:
    """Where writing to `path` ends up, links followed; raises `OSError` if that is a folder, a
    device or anything else that a file must not replace."""
    target = path.resolve()
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if target.exists() and not target.is_file():
        raise OSError(errno.EINVAL, "not a regular file, which writing would replace", str(path))
    for parent in target.parents:
        if parent.exists():
            if not parent.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
            break
    return target


def write_if_changed(path: Path, text: str) -> bool:
    """Writes `text` unless the file holds it already; says whether it wrote. Tools that compare
    time stamps then see a new file only when there is one."""
    if path.is_file() and path.read_bytes() == text.encode():
        return False
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return True


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
