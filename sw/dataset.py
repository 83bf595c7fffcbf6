# SPDX-License-Identifier: Apache-2.0
"""Calibration and scoring data: `x` float32 inputs NCHW, optionally `y` integer labels."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import DataError

_UNREADABLE = (
    ValueError,
    EOFError,
    MemoryError,
    NotImplementedError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What NumPy and zipfile raise for damaged files."""


@dataclass(frozen=True, eq=False)
class Dataset:
    x: NDArray[np.float32]
    """Inputs, (images, ...) as the model takes them (NCHW)."""
    y: NDArray[np.int64] | None = None
    """Class labels, (images,)."""

    def __len__(self) -> int:
        return self.x.shape[0]

    def take(self, indices: NDArray[np.intp] | slice) -> Dataset:
        return Dataset(self.x[indices], None if self.y is None else self.y[indices])

    def halves(self, seed: int) -> tuple[Dataset, Dataset]:
        """Two disjoint random halves; the same seed gives the same halves."""
        if len(self) < 2:
            raise DataError(f"data: {len(self)} image(s) cannot be split in halves; give 2 or more")
        if seed < 0:
            raise DataError(f"seed: must be 0 or more, not {seed}")
        order = np.random.default_rng(seed).permutation(len(self))
        middle = len(self) // 2
        return self.take(order[:middle]), self.take(order[middle:])


def load_dataset(path: Path) -> Dataset:
    """Reads an .npz file with `x` and optionally `y`; raises `DataError` for anything else."""
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise DataError(f"{path}: a single array; expected an .npz archive with an array x")
        with archive:
            if "x" not in archive:
                raise DataError(f"{path}: no array named x; it holds {sorted(archive)}")
            x = archive["x"]
            y = archive["y"] if "y" in archive else None
    except _UNREADABLE as error:
        raise DataError(f"{path}: not a readable .npz archive ({error})") from None
    return check_dataset(x, y, str(path))


def check_dataset(x: NDArray, y: NDArray | None, name: str) -> Dataset:
    """`x` and `y` as a Dataset; raises `DataError`, beginning with `name`, where they are not."""
    x = np.asarray(x)
    if not np.issubdtype(x.dtype, np.floating):
        raise DataError(f"{name}: x must hold floats, not {x.dtype}")
    if x.ndim < 2 or x.shape[0] == 0:
        raise DataError(f"{name}: x must be (images, ...) with at least one image, not {x.shape}")
    if not np.isfinite(x).all():
        raise DataError(f"{name}: x holds values that are not finite (NaN or infinity)")
    if y is not None:
        y = np.asarray(y)
        if y.shape != x.shape[:1] or not np.issubdtype(y.dtype, np.integer):
            raise DataError(
                f"{name}: y must be one integer label an image, ({x.shape[0]},), "
                f"not {y.dtype} {y.shape}"
            )
        y = y.astype(np.int64)
    return Dataset(np.ascontiguousarray(x, dtype=np.float32), y)


def load_arrays(path: Path) -> NDArray | dict[str, NDArray]:
    """Reads an .npy array or an .npz of named ones; raises `DataError` for anything else."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return dict(loaded)
    except _UNREADABLE as error:
        raise DataError(f"{path}: not a readable .npy array ({error})") from None
