# SPDX-License-Identifier: Apache-2.0
"""Operators that ONNX's conformance cases do not reach: on codes, composed, per channel, QONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx_models import (
    Model,
    assert_close,
    equal_nodes,
    final,
    images,
    layer,
    quantized,
    run,
    unsigned,
)
from onnxruntime.quantization import QuantFormat, QuantType

from bitloop.errors import FrontendError
from bitloop.frontend.onnx_model import import_onnx
from bitloop.graph.execute import execute
from bitloop.graph.ir import Add, Concat, Graph, Table


def same(path: Path, graph: Graph, x: NDArray[np.float32], codes: str) -> NDArray[np.uint8]:
    """ONNX Runtime's codes, after comparing the graph's with them."""
    spec = graph.tensors[graph.outputs[0]]
    expected = unsigned(run(path, x, {codes})[codes], spec)
    assert_close(final(graph, x), expected)
    assert len(np.unique(expected)) > 10
    return expected


def kinds(graph: Graph) -> list[str]:
    return [type(node).__name__ for node in graph.nodes]


def weight(m: Model, name: str, axis: int, *shape: int) -> str:
    """int8 codes with a scale for each index of an axis."""
    codes = m.constant(f"{name}_codes", m.random.integers(-127, 128, shape).astype(np.int8))
    scales = m.constant(f"{name}_s", np.linspace(0.005, 0.02, shape[axis], dtype=np.float32))
    zeros = m.constant(f"{name}_z", np.zeros(shape[axis], np.int8))
    return m.node("DequantizeLinear", [codes, scales, zeros], name, axis=axis)


def test_a_tensor_times_a_function_of_itself_is_a_table(tmp_path: Path) -> None:
    m = Model()
    x = m.fake("x", 0.03, np.uint8(120))
    gate = m.fake(m.node("Sigmoid", [x], "sigmoid"), 1 / 256, np.uint8(0))
    y = m.fake(m.node("Mul", [x, gate], "silu"), 0.02, np.uint8(14))
    path = m.save(tmp_path / "m.onnx", ("n", 3, 9, 9), y)
    graph = import_onnx(path, 31)
    assert kinds(graph) == ["Table"]
    same(path, graph, images(20, (3, 9, 9)), f"{y}_codes")


def test_composed_gelu_is_a_table(tmp_path: Path) -> None:
    m = Model()
    x = m.fake("x", 0.03, np.int8(-8))
    root = m.constant("root", np.float32(np.sqrt(2)))
    erf = m.node("Erf", [m.node("Div", [x, root], "scaled")], "erf")
    one = m.node("Add", [erf, m.constant("one", np.float32(1))], "plus")
    half = m.node("Mul", [m.node("Mul", [x, one], "twice"), m.constant("h", np.float32(0.5))], "g")
    y = m.fake(half, 0.02, np.int8(-120))
    path = m.save(tmp_path / "m.onnx", ("n", 4, 9, 9), y)
    graph = import_onnx(path, 31)
    assert kinds(graph) == ["Table"]
    same(path, graph, images(20, (4, 9, 9)), f"{y}_codes")


def test_products_of_two_tensors_are_refused(tmp_path: Path) -> None:
    m = Model()
    x = m.fake("x", 0.02, np.uint8(128))
    squeeze = m.fake(m.node("GlobalAveragePool", [x], "pool"), 0.01, np.uint8(128))
    m.node("Mul", [x, m.node("Sigmoid", [squeeze], "gate")], "y")
    with pytest.raises(FrontendError, match=r"y \(Mul\): shapes .* differ"):
        import_onnx(m.save(tmp_path / "m.onnx", (1, 3, 4, 4), "y"))


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolution_with_scales_for_channels(tmp_path: Path, groups: int) -> None:
    m = Model()
    x = m.fake("x", 0.03, np.uint8(120))
    w = weight(m, "w", 1, 4, 6 // groups, 3, 3)
    made = m.node("ConvTranspose", [x, w], "up", strides=[2, 2], pads=[1, 1, 0, 1],
                  output_padding=[1, 0], group=groups)  # fmt: skip
    y = m.fake(m.node("Relu", [made], "relu"), 0.1, np.uint8(0))
    path = m.save(tmp_path / "m.onnx", ("n", 4, 5, 6), y)
    graph = import_onnx(path, 31)
    assert kinds(graph) == ["Conv"]
    same(path, graph, images(20, (4, 5, 6)), f"{y}_codes")


def test_batch_normalization_joins_its_convolution(tmp_path: Path) -> None:
    m = Model()
    x = m.fake("x", 0.03, np.uint8(120))
    conv = m.node("Conv", [x, weight(m, "w", 0, 6, 3, 3, 3), m.weight("b", 6)], "conv")
    factors = m.constant("f", np.array([1, -0.5, 2, -1, 0.1, 0.7], np.float32))
    means = m.constant("v", np.linspace(0.5, 2, 6, dtype=np.float32))
    normal = m.node("BatchNormalization", [conv, factors, m.weight("s", 6), m.weight("mu", 6),
                                           means], "norm")  # fmt: skip
    hidden = m.fake(m.node("Relu", [normal], "relu"), 0.05, np.uint8(0))
    alone = m.node("BatchNormalization", [hidden, factors, "s", "mu", means], "alone")
    y = m.fake(alone, 0.05, np.uint8(128))
    path = m.save(tmp_path / "m.onnx", ("n", 3, 7, 7), y)
    graph = import_onnx(path, 31)
    assert kinds(graph) == ["Conv", "Conv"]
    same(path, graph, images(20, (3, 7, 7)), f"{y}_codes")


@pytest.mark.parametrize("groups", [1, 4])
def test_asymmetric_weights_are_exact(tmp_path: Path, groups: int) -> None:
    """Codes less their zero-point exceed a byte: the sum of two convolutions' weights in one."""
    m = Model()
    codes = m.random.integers(0, 256, (8, 4 // groups, 3, 3)).astype(np.uint8)
    parameters = [
        m.constant("xs", np.float32(0.02)), m.constant("xz", np.uint8(77)), m.constant("w", codes),
        m.constant("ws", np.float32(0.004)), m.constant("wz", np.uint8(100)),
        m.constant("ys", np.float32(0.1)), m.constant("yz", np.uint8(130)),
        m.constant("b", m.random.integers(-900, 900, 8).astype(np.int32)),
    ]  # fmt: skip
    m.node("QLinearConv", ["x", *parameters], "y", pads=[1, 0, 1, 2], group=groups)
    path = m.save(tmp_path / "m.onnx", (2, 4, 6, 6), "y", TensorProto.UINT8)
    graph = import_onnx(path, 31)
    raw = m.random.integers(0, 256, (2, 4, 6, 6)).astype(np.uint8)
    spec = graph.tensors[graph.inputs[0]]
    found = execute(graph, {graph.inputs[0]: unsigned(raw, spec)})[graph.outputs[0]]
    expected = unsigned(run(path, raw)["y"], graph.tensors[graph.outputs[0]])
    np.testing.assert_array_equal(found, expected)


def test_operators_on_codes(tmp_path: Path) -> None:
    """What ONNX Runtime makes of a network with concatenation, leaky ReLU and sigmoid, whose
    averages, of nine values, have no ties."""
    m = Model()
    a = m.node(
        "LeakyRelu", [m.node("Conv", ["x", m.weight("w1", 6, 3, 3, 3)], "c1")], "l", alpha=0.1
    )
    b = m.node("Sigmoid", [m.node("Conv", ["x", m.weight("w2", 4, 3, 3, 3)], "c2")], "s")
    both = m.node("Concat", [a, b], "cat", axis=1)
    pool = m.node("AveragePool", [both], "pool", kernel_shape=[3, 3], pads=[1] * 4,
                  count_include_pad=1)  # fmt: skip
    up = m.node("Resize", [pool, "", m.constant("scales", np.array([1, 1, 2, 2], np.float32))],
                "up", mode="nearest", coordinate_transformation_mode="asymmetric",
                nearest_mode="floor")  # fmt: skip
    m.node("Conv", [up, m.weight("w3", 5, 10, 1, 1)], "y")
    model = m.save(tmp_path / "f.onnx", ("n", 3, 8, 8), "y", opset=17)
    for kind in (QuantFormat.QOperator, QuantFormat.QDQ):
        path = quantized(tmp_path, model, kind, QuantType.QUInt8, True, images(8, (3, 8, 8)))
        graph = import_onnx(path, 31)
        assert sum(isinstance(node, Table) for node in graph.nodes) == 2
        assert sum(isinstance(node, Concat) for node in graph.nodes) == 1
        last = next(node.output[0] for node in reversed(onnx.load(path).graph.node)
                    if node.op_type in ("QLinearConv", "QuantizeLinear"))  # fmt: skip
        x = images(20, (3, 8, 8), 5)
        expected = unsigned(run(path, x, {last})[last], graph.tensors[graph.outputs[0]])
        np.testing.assert_array_equal(final(graph, x), expected)


def test_one_dimensional_network(tmp_path: Path) -> None:
    m = Model()
    x = m.fake("x", 0.03, np.uint8(120))
    conv = m.node("Conv", [x, weight(m, "w", 0, 6, 4, 5)], "conv", pads=[2, 2], strides=[2])
    pool = m.node("MaxPool", [m.fake(conv, 0.1, np.uint8(128))], "pool", kernel_shape=[3],
                  strides=[2], ceil_mode=1)  # fmt: skip
    mean = m.node("AveragePool", [pool], "mean", kernel_shape=[2], pads=[1, 0])
    hidden = m.fake(mean, 0.1, np.uint8(128))
    swapped = m.node("Transpose", [hidden], "swapped", perm=[0, 2, 1])
    y = m.fake(m.node("MatMul", [swapped, weight(m, "v", 1, 6, 7)], "y"), 0.1, np.uint8(128))
    path = m.save(tmp_path / "m.onnx", ("n", 4, 31), y)
    graph = import_onnx(path, 31)
    spec = graph.tensors[graph.outputs[0]]
    assert (spec.source_shape, spec.source_layout) == ((8, 7), "NHWC")
    x = images(20, (4, 31))
    source = graph.tensors[graph.inputs[0]]
    codes = np.clip(np.rint(x / np.float32(source.scale)) + source.zero_point, 0, 255)
    inputs = codes.astype(np.uint8).transpose(0, 2, 1)[:, None]
    found = execute(graph, {graph.inputs[0]: np.ascontiguousarray(inputs)})[graph.outputs[0]]
    assert_close(found.reshape(20, 8, 7), run(path, x, {f"{y}_codes"})[f"{y}_codes"])


def test_linear_layer_back_to_an_image(tmp_path: Path) -> None:
    """An autoencoder's middle: the layer makes the image in the graph's order."""
    m = Model()
    x = m.fake("x", 0.03, np.uint8(120))
    hidden = m.fake(m.node("MatMul", [x, weight(m, "w", 1, 20, 36)], "hidden"), 0.1, np.uint8(128))
    image = m.node("Reshape", [hidden, m.constant("shape", [-1, 4, 3, 3])], "image")
    y = m.fake(m.node("Conv", [image, weight(m, "v", 0, 2, 4, 2, 2)], "y"), 0.1, np.uint8(128))
    path = m.save(tmp_path / "m.onnx", ("n", 20), y)
    graph = import_onnx(path, 31)
    assert kinds(graph) == ["Conv", "Reshape", "Conv"]
    same(path, graph, images(20, (20,)), f"{y}_codes")


@pytest.mark.parametrize("mode", ["edge", "reflect", "wrap", "constant"])
def test_padding_with_more_than_zeros(tmp_path: Path, mode: str) -> None:
    m = Model()
    x = m.fake("x", 0.03, np.uint8(120))
    amounts = m.constant("pads", [0, 1, 2, 1, 0, 0, 1, 2] if mode != "reflect" else
                         [0, 0, 2, 1, 0, 0, 1, 2])  # fmt: skip
    value = [m.constant("value", np.float32(0.9))] if mode == "constant" else []
    padded = m.node("Pad", [x, amounts, *value], "padded", mode=mode)
    y = m.fake(padded, 0.05, np.uint8(120))
    path = m.save(tmp_path / "m.onnx", ("n", 3, 4, 5), y)
    same(path, import_onnx(path, 31), images(10, (3, 4, 5)), f"{y}_codes")


def quant(m: Model, source: str, name: str, scale: Any, bits: int, domain: str, **kind: int) -> str:
    """QONNX's Quant."""
    inputs = [
        source,
        m.constant(f"{name}_s", np.asarray(scale, np.float32)),
        m.constant(f"{name}_z", np.float32(0)),
        m.constant(f"{name}_b", np.float32(bits)),
    ]
    m.nodes.append(
        helper.make_node("Quant", inputs, [name], name=name, domain=domain, **kind,
                         rounding_mode="ROUND")
    )  # fmt: skip
    return name


@pytest.mark.parametrize("domain", ["qonnx.custom_op.general", "onnx.brevitas"])
@pytest.mark.parametrize(("bits", "narrow"), [(2, 0), (3, 1), (4, 1), (8, 0)])
def test_qonnx(tmp_path: Path, domain: str, bits: int, narrow: int) -> None:
    """As the same model with QuantizeLinear, Clip and DequantizeLinear."""
    scales = np.linspace(0.05, 0.3, 6).reshape(6, 1, 1, 1)
    m = Model()
    x = quant(m, "x", "xq", 0.05, 8, domain, signed=1, narrow=0)
    w = quant(m, m.weight("w", 6, 3, 2, 2), "wq", scales, bits, domain, signed=1, narrow=narrow)
    conv = m.node("Conv", [x, w], "conv")
    quant(m, m.node("Relu", [conv], "relu"), "y", 0.1, 4, domain, signed=0, narrow=0)
    graph = import_onnx(m.save(tmp_path / "q.onnx", ("n", 3, 6, 6), "y", opset=13), 31)
    other = Model()
    x = other.fake("x", 0.05, np.int8(0))
    low, high = -(1 << bits - 1) + narrow, (1 << bits - 1) - 1
    stored = [other.constant("ws", scales.reshape(-1).astype(np.float32)),
              other.constant("wz", np.zeros(6, np.int8))]  # fmt: skip
    codes = other.node("QuantizeLinear", [other.weight("w", 6, 3, 2, 2), *stored], "wc", axis=0)
    ends = [other.constant("wl", np.int8(low)), other.constant("wh", np.int8(high))]
    clipped = other.node("Clip", [codes, *ends], "wclip")
    w = other.node("DequantizeLinear", [clipped, *stored], "wq", axis=0)
    relu = other.node("Relu", [other.node("Conv", [x, w], "conv")], "relu")
    y = other.fake(relu, 0.1, np.uint8(0), (0, 15))
    expected = import_onnx(other.save(tmp_path / "m.onnx", ("n", 3, 6, 6), y, opset=13), 31)
    assert len(graph.nodes) == len(expected.nodes) == 1
    assert all(map(equal_nodes, graph.nodes, expected.nodes))
    batch = images(20, (3, 6, 6))
    assert_close(final(graph, batch), unsigned(
        run(tmp_path / "m.onnx", batch, {f"{y}_clipped"})[f"{y}_clipped"],
        graph.tensors[graph.outputs[0]],
    ))  # fmt: skip


def test_subtraction_and_slices(tmp_path: Path) -> None:
    m = Model()
    x = m.fake("x", 0.03, np.uint8(120))
    hidden = m.fake(layer(m, x, 8, TensorProto.INT8, (6, 3, 1, 1)), 0.05, np.uint8(99))
    first, second = m.node("Identity", [hidden], "i"), "late"
    bounds = [m.constant(f"k{i}", v) for i, v in enumerate(([3], [6], [1]))]
    m.node("Slice", [first, *bounds], second)
    bounds = [m.constant(f"l{i}", v) for i, v in enumerate(([0], [3], [1]))]
    m.node("Slice", [first, *bounds], "early")
    y = m.fake(m.node("Sub", ["early", second], "sub"), 0.0613, np.uint8(130))
    path = m.save(tmp_path / "m.onnx", ("n", 3, 5, 5), y)
    graph = import_onnx(path, 31)
    assert isinstance(graph.nodes[-1], Add)
    same(path, graph, images(20, (3, 5, 5)), f"{y}_codes")


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes", "reason"),
    [
        ("Reshape", [[1 << 40, -1]], {}, "reshape of"),
        ("Resize", ["", np.array([1, 1, 1e9, 1e9], np.float32)], {}, "scales"),
        ("Resize", ["", np.array([1, 1, np.nan, 1], np.float32)], {}, "scales"),
        ("Pad", [[0, 0, 1 << 40, 0, 0, 0, 0, 0]], {}, "pads"),
        ("Pad", [[0, 0, -9, 0, 0, 0, 0, 0]], {}, "a part of"),
        ("Slice", [[0], [1 << 62], [9]], {}, "axis 9"),
        ("Slice", [[0], [4], [1], [0]], {}, "steps"),
        ("Split", [[1, 1 << 40]], {"axis": 1}, "parts of"),
        ("Gather", [[99]], {"axis": 1}, "outside"),
        ("Transpose", [], {"perm": [0, 0, 1, 2]}, "perm"),
        ("MaxPool", [], {"kernel_shape": [1 << 40, 2]}, "larger than the image"),
        ("AveragePool", [], {"kernel_shape": [0, 2]}, "1 or more"),
        ("LeakyRelu", [], {"alpha": float("inf")}, "alpha"),
        ("Softmax", [], {"axis": 7}, "axis 7"),
        ("Unsqueeze", [[9]], {}, "axis 9"),
        ("Squeeze", [[1]], {}, "not all 1"),
    ],
)  # fmt: skip
def test_absurd_sizes_are_refused(
    tmp_path: Path, operator: str, inputs: list[Any], attributes: dict[str, Any], reason: str
) -> None:
    m = Model()
    x = m.fake("x", 0.03, np.uint8(120))
    names = [v if isinstance(v, str) else m.constant(f"k{i}", v) for i, v in enumerate(inputs)]
    m.node(operator, [x, *names], "y", **attributes)
    path = m.save(tmp_path / "m.onnx", (1, 3, 4, 4), m.fake("y", 0.1, np.uint8(0)))
    with pytest.raises(FrontendError, match=reason) as caught:
        import_onnx(path)
    assert "damaged" not in str(caught.value)
