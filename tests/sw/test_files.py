# SPDX-License-Identifier: Apache-2.0
import pytest

from bitloop.files import replacing, write_if_changed


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
