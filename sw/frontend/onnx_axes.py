# SPDX-License-Identifier: Apache-2.0
"""How the axes of an ONNX tensor lie in a tensor of the graph.

Each axis is a string of the letters N (batch), H, W and C (rows, columns and channels of the
graph's tensor), outermost first: an image is ("N", "C", "H", "W"), flattened ("N", "CHW"). Letters
of size 1 are left out, so that axes of size 1 come and go; a free batch keeps its letter. Then
transposes and most reshapes only relabel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .lowering import Shape, Unsupported

Axes = tuple[str, ...]

ROW_MAJOR = "HWC"
"""Letters as the graph orders its codes."""


def input_axes(shape: Sequence[int], layout: str, batched: bool) -> tuple[Axes, Shape]:
    """Axes of a model input, with batch, and its height, width and channels.

    `layout`: `NCHW`, or `NHWC` for channels last. `batched`: whether axis 0 may be other than 1.
    """
    letters = {2: "C", 3: "CW", 4: "CHW"}.get(len(shape))
    if letters is None:
        raise Unsupported(f"input of {len(shape)} dimensions")
    if layout == "NHWC":
        letters = letters[1:] + letters[0]
    sizes = dict(zip(letters, shape[1:], strict=True))
    image = (sizes.get("H", 1), sizes.get("W", 1), sizes["C"])
    axes = tuple(letter if sizes[letter] > 1 else "" for letter in letters)
    return ("N" if batched else "", *axes), image


def letter_sizes(image: Shape, batch: int) -> dict[str, int]:
    return {"N": batch, "H": image[0], "W": image[1], "C": image[2]}


def regrouped(axes: Axes, sizes: Mapping[str, int], after: Sequence[int]) -> Axes | None:
    """Axes of the reshape to `after`, None where a letter would have to be cut."""
    letters = "".join(axes)
    groups = []
    for i, size in enumerate(after):
        group, count = "", 1
        if i == 0 and letters.startswith("N"):
            group, letters, count = "N", letters[1:], sizes["N"]
        while letters and count < size and not size % (count * sizes[letters[0]]):
            count *= sizes[letters[0]]
            group, letters = group + letters[0], letters[1:]
        if count != size:
            return None
        groups.append(group)
    return tuple(groups) if not letters else None


def split(shape: Sequence[int]) -> tuple[Axes, Shape] | None:
    """Axes and image of a vector cut into `shape` (without batch), row-major; None for more than
    three axes larger than 1."""
    large = [i for i, size in enumerate(shape) if size > 1]
    if len(large) > 3:
        return None
    letters = dict(zip(large, ROW_MAJOR[3 - len(large) :], strict=True))
    sizes = {letter: shape[i] for i, letter in letters.items()}
    image = (sizes.get("H", 1), sizes.get("W", 1), sizes.get("C", 1))
    return tuple(letters.get(i, "") for i in range(len(shape))), image


def is_sorted(letters: str, order: str = ROW_MAJOR) -> bool:
    positions = [order.find(letter) for letter in letters]
    return -1 not in positions and positions == sorted(positions)


def result_layout(axes: Axes, shape: tuple[int, ...]) -> tuple[tuple[int, ...], str]:
    """Shape without batch and layout (`NCHW`, `NHWC` or `NC`) of a result of the model."""
    if "N" in "".join(axes):
        if axes[0] != "N":
            raise Unsupported("the batch is not the first axis of a result")
        inner = shape[1:]
    else:
        inner = shape[1:] if shape and shape[0] == 1 else shape
    inner = inner or (1,)
    letters = "".join(axes).replace("N", "")
    if len(inner) == 1 and letters in ("", "C"):
        return inner, "NC"
    for layout in ("NCHW", "NHWC"):
        if is_sorted(letters, layout[1:]):
            return inner, layout
    raise Unsupported(f"a result of shape {shape} whose axes are neither NCHW nor NHWC")
