# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Lite operators that move codes, against LiteRT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tflite_models import RELU, SAME, VALID, Op, T, bias, listed, same, weights, write

from bitloop.errors import FrontendError
from bitloop.frontend.tflite import import_tflite
from bitloop.graph.ir import Concat, Conv, MaxPool, Reshape, Slice

IMAGE = (1, 6, 4, 5)


def image(*shape: int) -> T:
    return T(shape or IMAGE, 0.03, 5)


def moved(
    path: Path, operators: list[Op], tensors: list[T], inputs: int = 1, outputs: int | None = None
) -> list[type]:
    """Kinds of nodes of a model that equals LiteRT; its inputs stand first among `tensors`."""
    result = len(tensors) - 1 if outputs is None else outputs
    content = write(tensors, operators, list(range(inputs)), [result])
    graph = same(path, content, *(t.shape for t in tensors[:inputs]), images=5)
    return [type(node) for node in graph.nodes]


@pytest.mark.parametrize("axis", [1, 2, 3, -1])
@pytest.mark.parametrize("activation", [0, RELU])
def test_concatenation(tmp_path: Path, axis: int, activation: int) -> None:
    shapes = [list(IMAGE) for _ in range(3)]
    for i, shape in enumerate(shapes[:2]):
        shape[axis] = 3 - i
        shapes[2][axis] = 3 + 2
    tensors = [image(*shape) for shape in shapes]
    if activation:
        tensors[0].zero_point = tensors[1].zero_point = tensors[2].zero_point = -60
    options = {"Axis": axis, "FusedActivationFunction": activation}
    if activation:  # XNNPACK and LiteRT take none: converters give it an operator of its own
        path = tmp_path / "net.tflite"
        path.write_bytes(write(tensors, [Op("CONCATENATION", [0, 1], 2, options)], [0, 1], [2]))
        assert isinstance(import_tflite(path).nodes[-1], Concat | Reshape | MaxPool)
        return
    kinds = moved(tmp_path / "net.tflite", [Op("CONCATENATION", [0, 1], 2, options)], tensors, 2)
    assert kinds[-1] is Concat


def test_concatenation_of_other_scales_is_refused(tmp_path: Path) -> None:
    """As LiteRT does."""
    tensors = [image(), T(IMAGE, 0.05, 5), image(*IMAGE[:3], 10)]
    path = tmp_path / "net.tflite"
    path.write_bytes(write(tensors, [Op("CONCATENATION", [0, 1], 2, {"Axis": 3})], [0, 1], [2]))
    with pytest.raises(FrontendError, match="another scale"):
        import_tflite(path)


@pytest.mark.parametrize(
    ("begin", "size", "result"),
    [
        ([0, 1, 0, 0], [1, 3, -1, 5], (1, 3, 4, 5)),
        ([0, 0, 2, 1], [-1, 6, 2, 3], (1, 6, 2, 3)),
        ([0, 5, 3, 4], [1, 1, 1, 1], (1, 1, 1, 1)),
    ],
)
def test_slice(tmp_path: Path, begin: list[int], size: list[int], result: tuple[int, ...]) -> None:
    tensors = [image(), listed(begin), listed(size), image(*result), listed([0, 0, 0, 0]),
               image(1, 2, 4, 5)]  # fmt: skip
    path = tmp_path / "net.tflite"
    if np.prod(result) == 1:
        path.write_bytes(write(tensors, [Op("SLICE", [0, 1, 2], 3)], [0], [3]))
        assert import_tflite(path).tensors[import_tflite(path).outputs[0]].shape == (1, 1, 1)
    else:
        assert moved(path, [Op("SLICE", [0, 1, 2], 3)], tensors, outputs=3) == [Slice]


@pytest.mark.parametrize(
    ("begin", "end", "step", "options", "result"),
    [
        ([0, 0, 0, 0], [1, 6, 4, 5], [1, 2, 2, 1], {}, (1, 3, 2, 5)),
        ([0, 1, -2, 0], [1, -1, 9, 4], [1, 1, 1, 2], {}, (1, 4, 2, 2)),
        ([0, 3, 3, 1], [1, 1, 2, 2], [1, 1, 1, 1], {"BeginMask": 6, "EndMask": 14}, (1, 6, 4, 4)),
        ([0, 2, 0, 0], [1, 3, 4, 5], [1, 1, 1, 1], {"ShrinkAxisMask": 2}, (1, 4, 5)),
        ([0, 0, -1, 0], [1, 6, 0, 5], [1, 1, 1, 1], {"ShrinkAxisMask": 4}, (1, 6, 5)),
    ],
)
def test_strided_slice(
    tmp_path: Path, begin: list[int], end: list[int], step: list[int], options: dict[str, int],
    result: tuple[int, ...],
) -> None:  # fmt: skip
    tensors = [image(), listed(begin), listed(end), listed(step), image(*result)]
    operators = [Op("STRIDED_SLICE", [0, 1, 2, 3], 4, options)]
    assert moved(tmp_path / "net.tflite", operators, tensors) == [Slice]


@pytest.mark.parametrize("kind", ["SPLIT", "SPLIT_V"])
@pytest.mark.parametrize("axis", [1, 3])
def test_split_and_join(tmp_path: Path, kind: str, axis: int) -> None:
    """Halves change places."""
    shape = [1, 6, 4, 6]
    half = [n // 2 if i == axis else n for i, n in enumerate(shape)]
    tensors = [image(*shape), listed([axis]), listed([3, 3]), image(*half), image(*half),
               image(*shape)]  # fmt: skip
    if kind == "SPLIT":
        split = Op(kind, [1, 0], [3, 4], {"NumSplits": 2})
    else:
        split = Op(kind, [0, 2, 1], [3, 4], {"NumSplits": 2})
    join = Op("CONCATENATION", [4, 3], 5, {"Axis": axis})
    kinds = moved(tmp_path / "net.tflite", [split, join], tensors)
    assert kinds.count(Slice) == 2 and kinds.count(Concat) == 1


@pytest.mark.parametrize(
    "pads",
    [
        [[0, 0], [0, 0], [0, 0], [2, 1]],
        [[0, 0], [1, 2], [0, 3], [0, 0]],
        [[0, 0], [1, 0], [2, 0], [1, 1]],
    ],
)
@pytest.mark.parametrize("kind", ["PAD", "PADV2"])
def test_padding(tmp_path: Path, kind: str, pads: list[list[int]]) -> None:
    """At the end of the model, where no convolution takes it in."""
    result = [n + a + b for n, (a, b) in zip(IMAGE, pads, strict=True)]
    tensors = [image(), listed(pads), T((), 0.03, 5, np.array(5, np.int8)), image(*result)]
    inputs = [0, 1, 2] if kind == "PADV2" else [0, 1]
    kinds = moved(tmp_path / "net.tflite", [Op(kind, inputs, 3)], tensors)
    assert set(kinds) == {Conv}


@pytest.mark.parametrize("kernel", [1, 3])
def test_padding_before_pooling_and_small_kernels(tmp_path: Path, kernel: int) -> None:
    """More zeros than the kernel reaches, and zeros that are not the least code."""
    pads = [[0, 0], [3, 3], [3, 2], [0, 0]]
    padded = (1, 12, 9, 5)
    weight = weights((4, kernel, kernel, 5), 0)
    result = (1, 12, 9, 4)
    window = {"StrideH": 1, "StrideW": 1, "FilterHeight": 3, "FilterWidth": 3}
    tensors = [
        image(), listed(pads), image(*padded), weight, bias(weight, 0.03), T(result, 0.05, 3),
        image(1, 10, 7, 5),
    ]  # fmt: skip
    operators = [
        Op("PAD", [0, 1], 2),
        Op("CONV_2D", [2, 3, 4], 5, {"Padding": SAME, "StrideH": 1, "StrideW": 1}),
        Op("MAX_POOL_2D", [2], 6, {"Padding": VALID, **window}),
    ]
    moved(tmp_path / "net.tflite", operators, tensors, outputs=5)
    moved(tmp_path / "net.tflite", operators, tensors, outputs=6)


@pytest.mark.parametrize(
    ("size", "options", "kind"),
    [
        ((12, 8), {}, Conv),
        ((18, 4), {}, Conv),
        ((12, 8), {"HalfPixelCenters": 1}, Conv),
        ((12, 8), {"AlignCorners": 1}, Conv),
        ((3, 2), {}, Slice),
        ((2, 2), {"HalfPixelCenters": 1}, Slice),
    ],
)
def test_nearest_resizing(
    tmp_path: Path, size: tuple[int, int], options: dict[str, int], kind: type
) -> None:
    tensors = [image(), listed(size), image(1, *size, 5)]
    operators = [Op("RESIZE_NEAREST_NEIGHBOR", [0, 1], 2, options)]
    assert moved(tmp_path / "net.tflite", operators, tensors) == [kind]


@pytest.mark.parametrize(("size", "options"), [((9, 4), {}), ((18, 12), {"AlignCorners": 1})])
def test_resizing_by_fractions_is_refused(
    tmp_path: Path, size: tuple[int, int], options: dict[str, int]
) -> None:
    tensors = [image(), listed(size), image(1, *size, 5)]
    path = tmp_path / "net.tflite"
    path.write_bytes(write(tensors, [Op("RESIZE_NEAREST_NEIGHBOR", [0, 1], 2, options)], [0], [2]))
    with pytest.raises(FrontendError, match="integer factors"):
        import_tflite(path)


def test_views_before_layers_of_images(tmp_path: Path) -> None:
    """A vector becomes an image, loses and gains dimensions of 1, and is pooled and reshaped."""
    window = {"Padding": VALID, "StrideH": 2, "StrideW": 2, "FilterHeight": 2, "FilterWidth": 2}
    tensors = [
        image(1, 96), listed([1, 4, 6, 4]), image(1, 4, 6, 4), image(1, 2, 3, 4),
        listed([2]), image(1, 2, 1, 3, 4), image(1, 2, 3, 4), listed([0, 1, 2, 3]),
        image(1, 2, 3, 4), listed([1, 6, 4]), image(1, 6, 4), T((1, 6, 4), 1 / 256, -128),
    ]  # fmt: skip
    operators = [
        Op("RESHAPE", [0, 1], 2), Op("MAX_POOL_2D", [2], 3, window), Op("EXPAND_DIMS", [3, 4], 5),
        Op("SQUEEZE", [5], 6, {"SqueezeDims": [2]}), Op("TRANSPOSE", [6, 7], 8),
        Op("RESHAPE", [8, 9], 10), Op("LOGISTIC", [10], 11),
    ]  # fmt: skip
    kinds = moved(tmp_path / "net.tflite", operators, tensors)
    assert kinds[:2] == [Reshape, MaxPool]


def test_a_small_file_cannot_ask_for_much_padding(tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    huge = 20_000
    tensors = [image(1, 1, 1, huge), listed([[0, 0], [0, 0], [0, 0], [0, huge]]),
               image(1, 1, 1, 2 * huge)]  # fmt: skip
    path.write_bytes(write(tensors, [Op("PAD", [0, 1], 2)], [0], [2]))
    with pytest.raises(FrontendError, match="padding or resizing by more"):
        import_tflite(path)
