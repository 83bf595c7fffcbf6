# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from bitloop.dataset import Dataset, load_arrays, load_dataset
from bitloop.errors import DataError


def test_halves_are_disjoint_cover_all_and_repeat(tmp_path):
    data = Dataset(np.arange(21, dtype=np.float32)[:, None], np.arange(21))
    first, second = data.halves(3)
    assert sorted([*first.y, *second.y]) == list(range(21))
    assert (first.x[:, 0] == first.y).all()
    again = data.halves(3)
    assert (again[0].y == first.y).all()
    assert (data.halves(4)[0].y != first.y).any()


def test_an_archive_comes_back(tmp_path):
    path = tmp_path / "d.npz"
    np.savez(path, x=np.ones((4, 1, 2, 2)), y=np.arange(4, dtype=np.int32))
    data = load_dataset(path)
    assert data.x.dtype == np.float32 and data.y.dtype == np.int64 and len(data) == 4


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"images": np.ones((4, 1, 2, 2))}, "no array named x"),
        ({"x": np.ones((4, 1, 2, 2), np.uint8)}, "floats"),
        ({"x": np.ones((0, 1, 2, 2))}, "at least one image"),
        ({"x": np.full((4, 1, 2, 2), np.inf)}, "finite"),
        ({"x": np.ones((4, 1, 2, 2)), "y": np.zeros(3, int)}, "one integer label"),
        ({"x": np.ones((4, 1, 2, 2)), "y": np.zeros(4)}, "one integer label"),
    ],
)
def test_wrong_archives_are_refused(tmp_path, arrays, reason):
    path = tmp_path / "d.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=reason) as error:
        load_dataset(path)
    assert str(path) in str(error.value)


def test_files_that_are_no_archives_are_refused(tmp_path):
    path = tmp_path / "d.npz"
    np.savez(path, x=np.ones((4, 1, 2, 2)))
    whole = path.read_bytes()
    pickled = np.array([{}], dtype=object)
    for content in (b"", b"junk" * 10, whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="not a readable"):
            load_dataset(path)
        with pytest.raises(DataError, match="not a readable"):
            load_arrays(path)
    np.savez(path, x=pickled)
    with pytest.raises(DataError):
        load_dataset(path)
    np.save(tmp_path / "single.npy", np.ones(3))
    with pytest.raises(DataError, match="single array"):
        load_dataset(tmp_path / "single.npy")


def test_damaged_arrays_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, x=np.random.default_rng(0).random((4, 50)).astype(np.float32))
    raw = bytearray(path.read_bytes())
    raw[80:120] = bytes(40)
    path.write_bytes(raw)
    with pytest.raises(DataError, match="not a readable"):
        load_dataset(path)
    header = tmp_path / "x.npy"
    header.write_bytes(b"\x93NUMPY\x01\x00\x10\x00{garbage!!!!!!!!")
    with pytest.raises(DataError, match="not a readable"):
        load_arrays(header)


def test_a_negative_seed_is_refused():
    with pytest.raises(DataError, match="seed"):
        Dataset(np.zeros((4, 2), np.float32)).halves(-1)
