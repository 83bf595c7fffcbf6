# SPDX-License-Identifier: Apache-2.0
import os

import pytest

from bitloop.files import check_output, replacing, write_if_changed


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "out" / "y.bin"
    with replacing(path) as temporary:
        temporary.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_text_is_written_only_when_it_changed(tmp_path):
    path = tmp_path / "core.v"
    assert write_if_changed(path, "a")
    before = path.stat().st_ino
    assert not write_if_changed(path, "a")
    assert path.stat().st_ino == before
    assert write_if_changed(path, "b")
    assert path.read_text() == "b"


def test_a_folder_or_device_is_not_replaced(tmp_path):
    with pytest.raises(IsADirectoryError) as refused:
        check_output(tmp_path)
    assert refused.value.filename == str(tmp_path)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(OSError, match="not a regular file"), replacing(fifo):
        raise AssertionError("no work may be done")
    assert fifo.is_fifo()
    with pytest.raises(NotADirectoryError):
        check_output(fifo / "inside.txt")


def test_links_are_followed(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    with replacing(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink() and (tmp_path / "real").read_text() == "new"


def test_a_file_that_is_not_text_counts_as_changed(tmp_path):
    (tmp_path / "core.v").write_bytes(b"\xff\xfe")
    assert write_if_changed(tmp_path / "core.v", "module")
