# SPDX-License-Identifier: Apache-2.0
"""Between what users hold (floats, or raw integer codes in the source model's layout) and what the
graph and the devices take (unsigned codes, NHWC; in memory, int8 codes viewed as bytes)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .errors import DataError
from .graph.ir import TensorSpec


def encode(spec: TensorSpec, values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Quantizes floats, (batch, *source_shape), to unsigned codes (batch, H, W, C).

    Rounds half to even on the float32 product with the reciprocal scale, as PyTorch's
    quantize_per_tensor does. Raises `DataError` for another shape or values that are not finite.
    """
    array = np.asarray(values)
    if not np.issubdtype(array.dtype, np.floating):
        raise DataError(f"input {spec.name}: expected floats, not {array.dtype} (see --raw)")
    if not np.isfinite(array).all():
        raise DataError(f"input {spec.name}: holds values that are not finite (NaN or infinity)")
    image = _to_image(spec, array.astype(np.float32))
    scaled = np.rint(image * np.float32(1.0 / spec.scale)) + np.float32(spec.zero_point)
    return np.clip(scaled, 0, 255).astype(np.uint8)


def decode(spec: TensorSpec, codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The real values, (batch, *source_shape), of unsigned codes (batch, H, W, C)."""
    real = (codes.astype(np.float32) - np.float32(spec.zero_point)) * np.float32(spec.scale)
    return _from_image(spec, real)


def flip_sign(spec: TensorSpec, codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Unsigned codes to the bytes the source model keeps in memory, and back (its own inverse)."""
    return codes ^ np.uint8(0x80) if spec.source_dtype == "int8" else codes


def from_raw(spec: TensorSpec, raw: NDArray[np.uint8] | NDArray[np.int8]) -> NDArray[np.uint8]:
    """Raw codes in the source model's dtype and layout to the bytes of memory, (batch, H, W, C).

    Raises `DataError` for another dtype or shape.
    """
    array = np.asarray(raw)
    if array.dtype != np.dtype(spec.source_dtype):
        raise DataError(
            f"input {spec.name}: raw codes must be {spec.source_dtype}, not {array.dtype}"
        )
    return np.ascontiguousarray(_to_image(spec, array)).view(np.uint8)


def to_raw(spec: TensorSpec, memory: NDArray[np.uint8]) -> NDArray[np.uint8] | NDArray[np.int8]:
    """Bytes of memory, (batch, H, W, C), to the source model's dtype and layout."""
    return np.ascontiguousarray(_from_image(spec, memory)).view(np.dtype(spec.source_dtype))


def _to_image(spec: TensorSpec, array: NDArray) -> NDArray:
    shape = spec.source_shape or spec.shape
    if array.shape[1:] != tuple(shape) or array.ndim != len(shape) + 1:
        expected = ", ".join(["batch", *map(str, shape)])
        raise DataError(
            f"input {spec.name}: expected shape ({expected}) in {spec.source_layout}, "
            f"not {array.shape}"
        )
    if array.shape[0] == 0:
        raise DataError(f"input {spec.name}: the batch is empty")
    if spec.source_layout == "NCHW":
        height, width, channels = spec.shape
        array = array.reshape(len(array), channels, height, width).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(array).reshape(array.shape[0], *spec.shape)


def _from_image(spec: TensorSpec, image: NDArray) -> NDArray:
    shape = spec.source_shape or spec.shape
    if spec.source_layout == "NCHW":
        image = image.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(image).reshape(image.shape[0], *shape)
