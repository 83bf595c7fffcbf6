# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Lite operators of one value: every code against LiteRT's, over random scales."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tflite_models import FLOAT32, RELU, RELU6, Op, T, golden, listed, litert, same, write

from bitloop.errors import FrontendError
from bitloop.frontend.tflite import import_tflite, read_tflite
from bitloop.graph.ir import Add, Conv, Graph, MaxPool, Table

EVERY_CODE = np.arange(-128, 128).astype(np.int8).reshape(1, 16, 16, 1)


def scales(seed: int, count: int) -> list[tuple[float, int, float, int]]:
    """Input and output scale and zero-point; some ratios are powers of two, which tie."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        source, target = (float(np.exp(rng.uniform(np.log(0.004), np.log(0.15)))) for _ in "st")
        target = [target, source, 2 * source, source / 4][min(i % 8, 3)] if i % 8 else target
        zero_points = rng.integers(-128, 128, 2)
        made.append((source, int(zero_points[0]), target, int(zero_points[1])))
    return made


def every_code(path: Path, operator: Op, tensors: list[T]) -> Graph:
    """The graph of an operator of tensor 0, the last one its result, equal for every code, with
    16-bit multipliers too: the functions of one code are exact."""
    content = write(tensors, [operator], [0], [len(tensors) - 1])
    path.write_bytes(content)
    expected = litert(content, EVERY_CODE)
    for bits in (31, 16):
        np.testing.assert_array_equal(golden(path, EVERY_CODE, bits=bits), expected)
    return import_tflite(path)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("LOGISTIC", {}),
        ("TANH", {}),
        ("ELU", {}),
        ("HARD_SWISH", {}),
        ("ABS", {}),
        ("LEAKY_RELU", {"Alpha": 0.1}),
        ("LEAKY_RELU", {"Alpha": 0.3}),
        ("LEAKY_RELU", {"Alpha": 0.0}),
        ("LEAKY_RELU", {"Alpha": 0.003}),
        ("LEAKY_RELU", {"Alpha": -2.5}),
        ("QUANTIZE", {}),
        ("RELU", {}),
        ("RELU6", {}),
        ("RELU_N1_TO_1", {}),
    ],
)
def test_every_code_equals_litert(tmp_path: Path, kind: str, options: dict[str, float]) -> None:
    shape = EVERY_CODE.shape
    for scale, zero_point, target, target_zero_point in scales(len(kind), 25):
        tensors = [T(shape, scale, zero_point), T(shape, target, target_zero_point)]
        every_code(tmp_path / "net.tflite", Op(kind, [0], 1, options), tensors)


@pytest.mark.parametrize("kind", ["LOGISTIC", "TANH"])
def test_fixed_output_scales_equal_litert(tmp_path: Path, kind: str) -> None:
    target = T(EVERY_CODE.shape, 1 / 256, -128) if kind == "LOGISTIC" else (
        T(EVERY_CODE.shape, 1 / 128, 0))  # fmt: skip
    for scale, zero_point, *_ in scales(3, 10):
        source = T(EVERY_CODE.shape, scale, zero_point)
        graph = every_code(tmp_path / "net.tflite", Op(kind, [0], 1), [source, target])
        assert isinstance(graph.nodes[0], Table) and graph.nodes[0].function == kind.lower()


def test_changes_of_scale_need_no_table(tmp_path: Path) -> None:
    """QUANTIZE, and RELU with a scale of its own where it is a line."""
    tensors = [T(EVERY_CODE.shape, 0.03, 4), T(EVERY_CODE.shape, 0.05, -7)]
    for kind in ("QUANTIZE", "RELU"):
        path = tmp_path / "net.tflite"
        every_code(path, Op(kind, [0], 1), tensors)
        (node,) = import_tflite(path, 31).nodes
        assert isinstance(node, Conv)
    (node,) = every_code(tmp_path / "net.tflite", Op("RELU6", [0], 1), tensors[:1] * 2).nodes
    assert isinstance(node, MaxPool)


def test_one_slope_for_all_channels_equals_litert(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    for scale, zero_point, target, target_zero_point in scales(4, 20):
        slope = T((1, 1, 1), 0.01, int(rng.integers(-9, 9)), rng.integers(-128, 128, (1, 1, 1)))
        slope.data = slope.data.astype(np.int8) if slope.data is not None else None
        tensors = [T(EVERY_CODE.shape, scale, zero_point), slope,
                   T(EVERY_CODE.shape, target, target_zero_point)]  # fmt: skip
        every_code(tmp_path / "net.tflite", Op("PRELU", [0, 1], 2), tensors)


IMAGE = (1, 5, 4, 6)


def constant(shape: tuple[int, ...], scale: float, zero_point: int, seed: int) -> T:
    codes = np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)
    return T(shape, scale, zero_point, codes)


@pytest.mark.parametrize("kind", ["ADD", "SUB", "MUL"])
@pytest.mark.parametrize("shape", [(), (6,), (1, 1, 1, 6)])
@pytest.mark.parametrize("first", [False, True])
def test_constants_equal_litert(
    tmp_path: Path, kind: str, shape: tuple[int, ...], first: bool
) -> None:
    for seed, (scale, zero_point, target, target_zero_point) in enumerate(scales(7, 12)):
        fixed = constant(shape, 0.0213 if seed % 3 else scale, seed - 5, seed)
        if kind == "MUL":
            target *= 4 * scale
        tensors = [T(IMAGE, scale, zero_point), fixed, T(IMAGE, target, target_zero_point)]
        operator = Op(kind, [1, 0] if first else [0, 1], 2, {"FusedActivationFunction": seed % 2})
        content = write(tensors, [operator], [0], [2])
        path = tmp_path / "net.tflite"
        path.write_bytes(content)
        x = np.random.default_rng(seed).integers(-128, 128, (16, *IMAGE[1:])).astype(np.int8)
        expected = litert(content, x)
        for bits in (31, 16):
            np.testing.assert_array_equal(golden(path, x, bits=bits), expected)


def test_products_that_tie_are_counted(tmp_path: Path) -> None:
    """Decimal scales: float32 products round to ties, which go to even, up and down by turns. One
    factor is a table then; of several, a note tells."""
    path = tmp_path / "net.tflite"
    x = np.repeat(EVERY_CODE, 6, axis=3)
    shape = x.shape
    for factors in ([50, -7, 33, 90, 1, 0], [33]):
        fixed = T((len(factors),), 0.02, 0, np.array(factors, np.int8))
        content = write([T(shape, 0.03, 5), fixed, T(shape, 0.03, 1)], [Op("MUL", [0, 1], 2)],
                        [0], [2])  # fmt: skip
        path.write_bytes(content)
        imported = read_tflite(path, 31)
        (node,) = imported.graph.nodes
        difference = np.abs(golden(path, x).astype(int) - litert(content, x))
        if len(factors) == 1:
            assert isinstance(node, Table) and not imported.notes and not difference.any()
        else:
            wrong = (difference > 0).sum((0, 1, 2))
            assert difference.max() == 1 and 0 < (wrong > 0).sum() < 6 and wrong.max() <= 8
            assert imported.notes == (
                f"mul_0: {(wrong > 0).sum()} channels round up to {wrong.max()} of their 256 codes "
                "otherwise than LiteRT, by one",
            )


@pytest.mark.parametrize("activation", [0, RELU, RELU6])
def test_differences_equal_litert(tmp_path: Path, activation: int) -> None:
    tensors = [T(IMAGE, 0.03, 5), T(IMAGE, 0.0513, -7), T(IMAGE, 0.0471, -11)]
    content = write(tensors, [Op("SUB", [0, 1], 2, {"FusedActivationFunction": activation})],
                    [0, 1], [2])  # fmt: skip
    graph = same(tmp_path / "net.tflite", content, IMAGE, IMAGE)
    assert [type(node) for node in graph.nodes] == [Conv, Add]


def test_products_with_two_constants_in_a_row(tmp_path: Path) -> None:
    """Normalization as converters leave it: x * a + b."""
    tensors = [T(IMAGE, 0.03, 5), constant((6,), 0.011, 0, 1), T(IMAGE, 0.0313, 2),
               constant((6,), 0.02, -3, 2), T(IMAGE, 0.027, -20)]  # fmt: skip
    operators = [Op("MUL", [0, 1], 2, {"FusedActivationFunction": 0}),
                 Op("ADD", [2, 3], 4, {"FusedActivationFunction": RELU})]  # fmt: skip
    same(tmp_path / "net.tflite", write(tensors, operators, [0], [4]), IMAGE)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("MUL", {"shape": IMAGE}, "only one value or one a channel"),
        ("ADD", {"shape": (4, 1)}, "only one value or one a channel"),
        ("ADD", {"dtype": FLOAT32}, "float32"),
        ("SUB", {"scale": None}, "without a scale"),
        ("SUB", {"scale": float("inf")}, "positive and finite"),
        ("PRELU", {}, "slopes that differ"),
    ],
)
def test_constants_that_are_refused(
    tmp_path: Path, kind: str, change: dict[str, Any], message: str
) -> None:
    fixed = constant(change.get("shape", (6,)), 0.02, 0, 1)
    for key, value in change.items():
        setattr(fixed, key, value)
    tensors = [T(IMAGE, 0.03, 5), fixed, T(IMAGE, 0.05, 1)]
    path = tmp_path / "net.tflite"
    path.write_bytes(write(tensors, [Op(kind, [0, 1], 2)], [0], [2]))
    with pytest.raises(FrontendError, match=message):
        import_tflite(path)


def test_shapes_that_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    tensors = [T(IMAGE, 0.03, 5), T((1, 4, 5, 6), 0.05), listed([1]), T((1, 5, 1, 6), 0.03)]
    for operator in (Op("LOGISTIC", [0], 1), Op("QUANTIZE", [0], 1), Op("ADD", [0, 3], 1)):
        path.write_bytes(write(tensors, [operator], [0, 3], [1]))
        with pytest.raises(FrontendError, match="shape"):
            import_tflite(path)
