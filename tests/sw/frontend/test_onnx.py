# SPDX-License-Identifier: Apache-2.0
"""ONNX models, quantized by ONNX Runtime or by hand, imported and compared with ONNX Runtime.

On x86 processors without VNNI instructions ONNX Runtime saturates sums of products at 16 bits, and
is no reference then.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from torch import nn
from typer.testing import CliRunner

import bitloop
from bitloop.cli import app
from bitloop.errors import FrontendError
from bitloop.frontend.onnx_model import import_onnx, is_onnx
from bitloop.frontend.torch_export import import_program
from bitloop.graph.execute import execute, run_node
from bitloop.graph.ir import Add, AvgPool, Conv, Graph, Node, TensorSpec
from bitloop.quantize import quantize

NEAR = 1e-3
"""Distance from a tie, in codes, within which float32 and 22-bit sums may round otherwise."""


class Model:
    """Collects the parts of an ONNX graph."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, name: str, values: Any, kind: int | None = None) -> str:
        if kind is None:
            tensor = numpy_helper.from_array(np.asarray(values), name)
        else:
            array = np.asarray(values)
            tensor = helper.make_tensor(name, kind, array.shape, array.flatten().tolist())
        self.initializers.append(tensor)
        return name

    def weight(self, name: str, *shape: int) -> str:
        """Rows of different magnitude, so that one scale a channel matters."""
        values = self.random.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        rows = self.random.uniform(0.2, 1, (shape[0],) + (1,) * (len(shape) - 1))
        return self.constant(name, (values * rows).astype(np.float32))

    def node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        attributes.setdefault("name", output)
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def fake(
        self, source: str, scale: float, zero: Any, limits: tuple[int, int] | None = None
    ) -> str:
        """QuantizeLinear, Clip if there are limits, DequantizeLinear."""
        name = f"{source}_q"
        parameters = [
            self.constant(f"{name}_scale", np.float32(scale)),
            self.constant(f"{name}_zero", zero),
        ]
        codes = self.node("QuantizeLinear", [source, *parameters], f"{name}_codes")
        if limits:
            ends = [self.constant(f"{name}_{i}", zero.dtype.type(v)) for i, v in enumerate(limits)]
            codes = self.node("Clip", [codes, *ends], f"{name}_clipped")
        return self.node("DequantizeLinear", [codes, *parameters], name)

    def save(
        self,
        path: Path,
        shape: tuple[Any, ...],
        output: str,
        kind: int = TensorProto.FLOAT,
        opset: int = 21,
    ) -> Path:
        value = helper.make_tensor_value_info("x", kind, shape)
        graph = helper.make_graph(
            self.nodes, "model", [value], [helper.make_empty_tensor_value_info(output)],
            self.initializers,
        )  # fmt: skip
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)],
            ir_version=10,
        )
        onnx.save(model, path)
        return path


class Images(CalibrationDataReader):
    def __init__(self, *batches: NDArray[np.float32]) -> None:
        self.batches = iter(batches)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"x": batch}


def images(count: int, shape: tuple[int, ...] = (3, 16, 16), seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)


def run(path: Path, x: NDArray, outputs: set[str] | None = None) -> dict[str, NDArray]:
    """ONNX Runtime's results and, of `outputs`, tensors inside."""
    model = onnx.load(path)
    known = {value.name for value in model.graph.output}
    for name in sorted((outputs or set()) - known):
        model.graph.output.append(helper.make_empty_tensor_value_info(name))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: x}), strict=True))


def encode(spec: TensorSpec, x: NDArray[np.float32]) -> NDArray[np.uint8]:
    """QuantizeLinear, then NHWC."""
    codes = np.clip(np.rint(x / np.float32(spec.scale)) + spec.zero_point, 0, 255).astype(np.uint8)
    return unsigned(codes, spec)


def unsigned(codes: NDArray, spec: TensorSpec) -> NDArray[np.uint8]:
    """ONNX codes as the graph holds them."""
    if codes.dtype == np.int8:
        codes = (codes.astype(np.int16) + 128).astype(np.uint8)
    height, width, channels = spec.shape
    if codes.ndim == 4:
        return codes if spec.source_layout == "NHWC" else codes.transpose(0, 2, 3, 1)
    return codes.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)


def code_names(path: Path, graph: Graph) -> dict[str, str]:
    """The ONNX tensor that holds the codes of each tensor of the graph made by a node."""
    nodes = list(onnx.load(path).graph.node)
    by_name = {node.name: node for node in nodes}
    found = {}
    for node in graph.nodes:
        current = by_name[node.name]
        while not current.op_type.startswith("Q"):
            following = [n for n in nodes if current.output[0] in n.input]
            if following[0].op_type not in ("QuantizeLinear", "Relu", "Clip", "Flatten"):
                break
            current = following[0]
        found[node.output] = current.output[0]
    return found


def real_result(graph: Graph, node: Node, operands: list[NDArray]) -> NDArray[np.float64]:
    """The result in codes, before rounding, from the tensors' scales."""
    specs = [graph.tensors[name] for name in node.inputs]
    target = graph.tensors[node.output]
    reals = [
        (x.astype(np.float64) - spec.zero_point) * spec.scale
        for x, spec in zip(operands, specs, strict=True)
    ]
    if isinstance(node, Add):
        value = reals[0] + reals[1]
    else:
        assert isinstance(node, AvgPool)
        windows = np.lib.stride_tricks.sliding_window_view(reals[0], node.kernel, (1, 2))
        value = windows[:, :: node.stride[0], :: node.stride[1]].mean((4, 5))
    return value / target.scale + target.zero_point


def compare(path: Path, graph: Graph, x: NDArray[np.float32]) -> dict[str, int]:
    """Runs every node on ONNX Runtime's own codes; mismatches of the sums and averages, which must
    all lie next to a tie. Everything else must be equal."""
    names = code_names(path, graph)
    results = run(path, x, set(names.values()))
    source = graph.inputs[0]
    values = {source: encode(graph.tensors[source], x)}
    mismatches = {}
    for node in graph.nodes:
        spec = graph.tensors[node.output]
        values[node.output] = expected = unsigned(results[names[node.output]], spec)
        operands = [values[name] for name in node.inputs]
        found = run_node(graph, node, operands)
        different = found != expected
        if isinstance(node, Add | AvgPool):
            mismatches[node.name] = int(different.sum())
            offset = real_result(graph, node, operands)[different] % 1 - 0.5
            assert np.abs(offset).max(initial=0) < NEAR, node.name
            assert different.mean() < 0.05, node.name
        else:
            assert not different.any(), node.name
    return mismatches


def network() -> Model:
    m = Model()
    m.node("Conv", ["x", m.weight("w1", 16, 3, 3, 3), m.weight("b1", 16)], "c1", pads=[1] * 4)
    m.node("Relu", ["c1"], "r1")
    m.node("Conv", ["r1", m.weight("w2", 16, 1, 3, 3), m.weight("b2", 16)], "c2",
           pads=[0, 0, 1, 1], strides=[2, 2], group=16)  # fmt: skip
    limits = [m.constant("zero", np.float32(0)), m.constant("six", np.float32(6))]
    m.node("Clip", ["c2", *limits], "r2")
    m.node("Conv", ["r2", m.weight("w3", 16, 4, 1, 1)], "c3", group=4)
    m.node("Add", ["c3", "r2"], "sum")
    m.node("Relu", ["sum"], "r3")
    m.node("MaxPool", ["r3"], "max", kernel_shape=[3, 3], pads=[1] * 4)
    m.node("AveragePool", ["max"], "mean", kernel_shape=[2, 2], strides=[2, 2])
    m.node("Conv", ["mean", m.weight("w4", 24, 16, 3, 3)], "c4", auto_pad="SAME_UPPER")
    m.node("GlobalAveragePool", ["c4"], "global")
    m.node("Flatten", ["global"], "flat")
    m.node("Gemm", ["flat", m.weight("w5", 20, 24), m.weight("b5", 20)], "fc", transB=1)
    m.node("Relu", ["fc"], "r5")
    m.node("MatMul", ["r5", m.weight("w6", 20, 10)], "logits")
    m.node("Softmax", ["logits"], "y")
    return m


def quantized(
    folder: Path, model: Path, kind: QuantFormat, activations: QuantType, per_channel: bool,
    calibration: NDArray[np.float32], options: dict[str, Any] | None = None,
) -> Path:  # fmt: skip
    path = folder / "quantized.onnx"
    quantize_static(
        model, path, Images(calibration), quant_format=kind, per_channel=per_channel,
        activation_type=activations, weight_type=QuantType.QInt8, extra_options=options,
    )  # fmt: skip
    return path


@pytest.mark.parametrize("kind", [QuantFormat.QDQ, QuantFormat.QOperator])
@pytest.mark.parametrize(
    ("activations", "per_channel"), [(QuantType.QUInt8, False), (QuantType.QInt8, True)]
)
def test_equals_onnxruntime(
    tmp_path: Path, kind: QuantFormat, activations: QuantType, per_channel: bool
) -> None:
    model = network().save(tmp_path / "float.onnx", ("batch", 3, 16, 16), "y", opset=17)
    path = quantized(tmp_path, model, kind, activations, per_channel, images(16))
    graph = import_onnx(path, 31)
    assert sum(isinstance(node, Conv) for node in graph.nodes) == 6
    dtype = "int8" if activations is QuantType.QInt8 else "uint8"
    assert {graph.tensors[n].source_dtype for n in graph.inputs + graph.outputs} == {dtype}
    compare(path, graph, images(16, seed=2))


def test_one_node_for_many_quantize_operators(tmp_path: Path) -> None:
    """A pair of quantize and dequantize operators for each consumer; a maximum without any."""
    m = network()
    m.nodes = [node for node in m.nodes if node.op_type != "Softmax"]
    model = m.save(tmp_path / "float.onnx", ("batch", 3, 16, 16), "logits", opset=17)
    path = quantized(
        tmp_path, model, QuantFormat.QDQ, QuantType.QUInt8, True, images(4),
        {"DedicatedQDQPair": True},
    )  # fmt: skip
    pairs = [node for node in onnx.load(path).graph.node if node.op_type == "QuantizeLinear"]
    assert len({node.input[0] for node in pairs}) < len(pairs)
    kinds = [type(node).__name__ for node in import_onnx(path).nodes]
    assert kinds.count("Conv") == 6 and len(kinds) == 10
    m = Model()
    pool = m.node("MaxPool", [m.fake("x", 0.02, np.uint8(9))], "pool", kernel_shape=[2, 2])
    both = [m.fake(layer(m, source, 8, TensorProto.INT8, (4, 3, 1, 1)), 0.05, np.uint8(99))
            for source in (pool, m.node("Identity", [pool], "same"))]  # fmt: skip
    y = m.fake(m.node("Add", both, "sum"), 0.1, np.uint8(99))
    graph = import_onnx(m.save(tmp_path / "m.onnx", (1, 3, 4, 4), y))
    assert [type(node).__name__ for node in graph.nodes] == ["MaxPool", "Conv", "Conv", "Add"]


def equal_nodes(a: Node, b: Node) -> bool:
    """Whether they compute the same, whatever their names."""
    if type(a) is not type(b):
        return False
    for field in dataclasses.fields(a):
        left, right = getattr(a, field.name), getattr(b, field.name)
        if field.name == "requant":
            same = all(np.array_equal(v, getattr(right, k)) for k, v in vars(left).items())
        else:
            same = field.name in ("name", "inputs", "output") or np.array_equal(left, right)
        if not same:
            return False
    return True


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pool = nn.AvgPool2d(2)
        self.classifier = nn.Linear(8 * 4 * 4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        x = torch.relu(x + self.second(x).clamp(0, 6))
        x = self.pool(torch.max_pool2d(x, 2))
        return self.classifier(x.flatten(1))


def test_torch_export_gives_the_graph_of_the_program(tmp_path: Path) -> None:
    batch = ({0: torch.export.Dim("batch", max=64)},)
    example = (torch.zeros(2, 3, 16, 16),)
    program = torch.export.export(Block().eval(), example, dynamic_shapes=batch)
    program = quantize(program, images(16), {"second": 4, "classifier": 2})
    exported = torch.onnx.export(program, example, dynamo=True, dynamic_shapes=batch)
    assert exported is not None
    exported.save(str(tmp_path / "block.onnx"))
    graph, expected = import_onnx(tmp_path / "block.onnx", 31), import_program(program, "b", 31)
    assert [node.bits for node in graph.nodes if isinstance(node, Conv)] == [8, 4, 2]
    for node, other in zip(graph.nodes, expected.nodes, strict=True):
        assert equal_nodes(node, other), node.name
        if isinstance(node, Conv):
            assert node.name == other.name
    assert list(graph.tensors.values())[0] == list(expected.tensors.values())[0]


def test_detection(tmp_path: Path) -> None:
    path = network().save(tmp_path / "a", ("batch", 3, 16, 16), "y", opset=17)
    assert is_onnx(path)
    with pytest.raises(FrontendError, match="quantize_static"):
        import_onnx(path)
    for content in (b"", b"P", b"PK\x03\x04" + bytes(80), b"\x08\x07", bytes(range(256))):
        path.write_bytes(content)
        assert not is_onnx(path)
        with pytest.raises(FrontendError):
            import_onnx(path)
    with pytest.raises(FrontendError, match="No such file"):
        import_onnx(tmp_path / "none.onnx")


def test_compiles_whatever_the_name(tmp_path: Path) -> None:
    """From the file to the binary's program, which the reference device executes."""
    model = network().save(tmp_path / "float.onnx", ("batch", 3, 16, 16), "y", opset=17)
    path = quantized(tmp_path, model, QuantFormat.QOperator, QuantType.QInt8, True, images(4))
    path = path.rename(tmp_path / "network")
    binary = tmp_path / "network.bitloop"
    arguments = ["compile", str(path), "--preset", "n8", "--set", "multiplier_bits=31"]
    result = CliRunner().invoke(app, [*arguments, "-o", str(binary)])
    assert result.exit_code == 0, result.output
    assert "y: QLinearSoftmax is left to the host" in result.output
    graph = import_onnx(path, 31)
    spec = graph.tensors[graph.inputs[0]]
    raw = np.random.default_rng(5).integers(-128, 128, (3, 3, 16, 16)).astype(np.int8)
    found = bitloop.load(binary).run_raw(raw)
    assert isinstance(found, np.ndarray) and found.dtype == np.int8 and found.shape == (3, 10)
    expected = execute(graph, {spec.name: unsigned(raw, spec)})[graph.outputs[0]]
    np.testing.assert_array_equal(found.astype(int) + 128, expected[:, 0, 0])


def final(graph: Graph, x: NDArray[np.float32]) -> NDArray[np.uint8]:
    source = graph.inputs[0]
    return execute(graph, {source: encode(graph.tensors[source], x)})[graph.outputs[0]]


def assert_close(found: NDArray, expected: NDArray) -> None:
    """For what ONNX Runtime sums in float32, such as products with real biases: near a tie codes
    may differ by one."""
    different = np.abs(found.astype(int) - expected.astype(int))
    assert different.max() <= 1
    assert different.mean() < 0.01


def layer(
    m: Model, source: str, bits: int, kind: int, shape: tuple[int, ...], clip: bool = False
) -> str:
    """A convolution with constant codes of `bits` bits, kept as `kind`, and with real biases."""
    name = f"conv_{source}"
    limit = 1 << (bits - 1)
    codes = np.random.default_rng(len(m.nodes)).integers(-limit, limit, shape)
    codes.reshape(-1)[:2] = (-limit, limit - 1)
    zero = 0 if kind in (TensorProto.INT8, TensorProto.INT4, TensorProto.INT2) else limit
    if kind == TensorProto.UINT8:
        zero = 128
    stored = m.constant(f"{name}_codes", codes + zero, kind)
    if clip:
        ends = [m.constant(f"{name}_{v}", np.int8(v)) for v in (-limit, limit - 1)]
        stored = m.node("Clip", [stored, *ends], f"{name}_clip")
    scales = m.constant(f"{name}_scales", np.linspace(0.3, 1, shape[0], dtype=np.float32) / limit)
    zeros = m.constant(f"{name}_zeros", np.full(shape[0], zero), kind)
    weight = m.node("DequantizeLinear", [stored, scales, zeros], f"{name}_weight", axis=0)
    bias = m.constant(f"{name}_bias", np.linspace(-1, 1, shape[0], dtype=np.float32))
    return m.node("Conv", [source, weight, bias], name)


@pytest.mark.parametrize(
    ("bits", "kind", "opset"),
    [
        (8, TensorProto.INT8, 13),
        (8, TensorProto.UINT8, 13),
        (4, TensorProto.INT8, 13),
        (2, TensorProto.INT8, 13),
        (4, TensorProto.INT4, 21),
        (4, TensorProto.UINT4, 21),
        (2, TensorProto.INT2, 25),
        (2, TensorProto.UINT2, 25),
    ],
)
def test_weight_types(tmp_path: Path, bits: int, kind: int, opset: int) -> None:
    graphs = []
    for stored in (kind, TensorProto.INT8):
        m = Model()
        x = m.fake("x", 0.02, np.uint8(120))
        m.fake(layer(m, x, bits, stored, (4, 3, 2, 2)), 0.05, np.uint8(99))
        path = m.save(tmp_path / "m.onnx", (1, 3, 5, 5), m.nodes[-1].output[0], opset=opset)
        graphs.append(import_onnx(path))
    (found,), (expected,) = graphs[0].nodes, graphs[1].nodes
    assert isinstance(found, Conv) and found.bits == bits
    assert equal_nodes(found, expected)


def test_clips_between_quantize_and_dequantize(tmp_path: Path) -> None:
    """Brevitas' QCDQ: a clip of codes gives the width."""
    m = Model()
    x = m.fake("x", 0.05, np.int8(3))
    hidden = m.fake(m.node("Relu", [layer(m, x, 3, TensorProto.INT8, (6, 3, 1, 1), True)], "r"),
                    0.125, np.uint8(0), (0, 15))  # fmt: skip
    y = m.fake(layer(m, hidden, 2, TensorProto.INT8, (4, 6, 3, 3), True), 0.5, np.int8(-1), (-7, 7))
    path = m.save(tmp_path / "m.onnx", ("n", 3, 6, 6), y, opset=13)
    graph = import_onnx(path, 31)
    first, second = graph.nodes
    assert isinstance(first, Conv) and isinstance(second, Conv)
    assert (first.bits, second.bits) == (4, 2)
    assert (first.requant.low, first.requant.high) == (0, 15)
    assert (second.requant.low, second.requant.high) == (128 - 7, 128 + 7)
    batch = images(40, (3, 6, 6))
    results = run(path, batch, {f"{y}_clipped"})
    expected = unsigned(results[f"{y}_clipped"], graph.tensors[graph.outputs[0]])
    assert len(np.unique(expected)) > 6
    assert_close(final(graph, batch), expected)


def test_channels_last_input_and_flatten(tmp_path: Path) -> None:
    m = Model()
    x = m.node("Transpose", [m.fake("x", 0.02, np.uint8(128))], "first", perm=[0, 3, 1, 2])
    hidden = m.fake(layer(m, x, 8, TensorProto.INT8, (5, 3, 2, 2)), 0.04, np.uint8(110))
    last = m.node("Transpose", [hidden], "last", perm=[0, 2, 3, 1])
    shape = m.constant("shape", np.array([-1, 3 * 4 * 5]))
    flat = m.node("Reshape", [last, shape], "flat")
    codes = np.random.default_rng(3).integers(-127, 128, (60, 7)).astype(np.int8)
    scale, zero = m.constant("ws", np.float32(0.01)), m.constant("wz", np.int8(0))
    weight = m.node("DequantizeLinear", [m.constant("w", codes), scale, zero], "weight")
    product = m.node("MatMul", [flat, weight], "product")
    total = m.node("Add", [product, m.weight("bias", 7)], "total")
    y = m.fake(total, 0.2, np.uint8(128))
    path = m.save(tmp_path / "m.onnx", ("n", 4, 5, 3), y)
    graph = import_onnx(path, 31)
    spec = graph.tensors[graph.inputs[0]]
    assert (spec.source_layout, spec.source_shape, spec.shape) == ("NHWC", (4, 5, 3), (4, 5, 3))
    batch = images(40, (4, 5, 3))
    expected = run(path, batch, {f"{y}_codes"})[f"{y}_codes"]
    found = final(graph, batch).reshape(40, 7)
    assert len(np.unique(expected)) > 50
    assert_close(found, expected)


def test_zero_padding_and_integer_inputs(tmp_path: Path) -> None:
    m = Model()
    scale, zero = m.constant("s", np.float32(0.02)), m.constant("z", np.int8(-5))
    x = m.node("DequantizeLinear", ["x", scale, zero], "real")
    padded = m.node("Pad", [x, m.constant("pads", [0, 0, 1, 0, 0, 0, 0, 2])], "padded")
    y = m.fake(layer(m, padded, 8, TensorProto.INT8, (5, 3, 2, 3)), 0.04, np.int8(9))
    path = m.save(tmp_path / "m.onnx", (2, 3, 4, 4), y, TensorProto.INT8)
    graph = import_onnx(path, 31)
    (node,) = graph.nodes
    assert isinstance(node, Conv) and node.padding == (1, 0, 0, 2)
    raw = np.random.default_rng(0).integers(-128, 128, (2, 3, 4, 4)).astype(np.int8)
    expected = unsigned(run(path, raw, {f"{y}_codes"})[f"{y}_codes"], graph.tensors[node.output])
    source = graph.inputs[0]
    found = execute(graph, {source: unsigned(raw, graph.tensors[source])})[node.output]
    assert_close(found, expected)


def test_constant_added_to_a_quantized_tensor(tmp_path: Path) -> None:
    m = Model()
    x = m.fake("x", 0.02, np.uint8(128))
    y = m.fake(m.node("Add", [m.weight("c", 3, 1, 1), x], "a"), 0.03, np.uint8(100))
    path = m.save(tmp_path / "m.onnx", ("n", 3, 4, 4), y)
    graph = import_onnx(path, 31)
    batch = images(20, (3, 4, 4))
    expected = unsigned(run(path, batch, {f"{y}_codes"})[f"{y}_codes"], graph.tensors["a"])
    assert_close(final(graph, batch), expected)


def test_problems_are_listed_together(tmp_path: Path) -> None:
    m = Model()
    x = m.fake("x", 0.02, np.uint8(128))
    m.node("Sigmoid", [x], "a")
    m.node("Mul", [m.fake("a", 1.0, np.uint8(0)), x], "b")
    m.node("BatchNormalization", [x, *["s"] * 4], "c")
    m.node("Conv", [x, m.weight("w", 4, 3, 1, 1)], "d", name="named")
    m.constant("s", np.ones(3, np.float32))
    path = m.save(tmp_path / "m.onnx", (1, 3, 4, 4), "d")
    with pytest.raises(FrontendError) as caught:
        import_onnx(path)
    lines = str(caught.value).splitlines()[1:]
    assert [line.split(":")[0].strip() for line in lines] == [
        "a (Sigmoid)", "c (BatchNormalization)", "named (Conv)",
    ]  # fmt: skip
    assert "not supported" in lines[0]
    assert "fold it" in lines[1]
    assert "weight is not quantized" in lines[2]


def refused(m: Model, tmp_path: Path, output: str, match: str) -> None:
    path = m.save(tmp_path / "m.onnx", (1, 3, 4, 4), output)
    with pytest.raises(FrontendError, match=match):
        import_onnx(path)


def test_refuses_weights_that_are_not_symmetric(tmp_path: Path) -> None:
    m = Model()
    x = m.fake("x", 0.02, np.uint8(128))
    codes = m.constant("w", np.array([0, 255, 7], np.uint8).reshape(1, 3, 1, 1))
    parameters = [m.constant("ws", np.float32(0.1)), m.constant("wz", np.uint8(100))]
    weight = m.node("DequantizeLinear", [codes, *parameters], "weight")
    y = m.fake(m.node("Conv", [x, weight], "conv"), 1.0, np.uint8(0))
    refused(m, tmp_path, y, r"conv \(Conv\): weight codes .* -100..155; .*zero-point 0")


def test_refuses_activations_with_a_scale_a_channel(tmp_path: Path) -> None:
    m = Model()
    scales = m.constant("s", np.ones(3, np.float32)), m.constant("z", np.zeros(3, np.uint8))
    codes = m.node("QuantizeLinear", ["x", *scales], "codes")
    refused(m, tmp_path, m.node("DequantizeLinear", [codes, *scales], "y"), "one a channel")


def test_refuses_softmax_inside(tmp_path: Path) -> None:
    m = Model()
    soft = m.node("Softmax", [m.fake("x", 0.02, np.uint8(128))], "soft", axis=1)
    y = m.fake(m.node("Relu", [soft], "relu"), 1 / 256, np.uint8(0))
    refused(m, tmp_path, y, r"relu \(Relu\): .*softmax.*only as last")


def test_refuses_cycles_and_second_producers(tmp_path: Path) -> None:
    m = Model()
    m.node("Relu", [m.fake("b", 1.0, np.uint8(0))], "a")
    m.node("Relu", ["a"], "b")
    refused(m, tmp_path, "b", "cycle")
    m = Model()
    x = m.fake("x", 0.02, np.uint8(128))
    m.node("Relu", [x], "y")
    m.node("Relu", [x], "y")
    refused(m, tmp_path, "y", "two producers")


def test_refuses_sizes_that_are_not_there(tmp_path: Path) -> None:
    m = network()
    path = m.save(tmp_path / "m.onnx", ("n", 3, 16, 16), "y")
    model = onnx.load(path)
    model.graph.initializer[0].dims[0] = 1 << 40
    onnx.save(model, path)
    with pytest.raises(FrontendError, match="'w1' of shape .* not all there"):
        import_onnx(path)
    with pytest.raises(FrontendError, match="only the batch may be free"):
        import_onnx(m.save(path, ("n", 3, "h", "w"), "y"))
    with pytest.raises(FrontendError, match="3 dimensions"):
        import_onnx(m.save(path, ("n", 3, 16), "y"))


def test_external_data_stays_in_the_folder_of_the_model(tmp_path: Path) -> None:
    float_path = network().save(tmp_path / "f.onnx", ("n", 3, 16, 16), "y", opset=17)
    path = quantized(
        tmp_path, float_path, QuantFormat.QDQ, QuantType.QUInt8, False, images(4)
    )  # fmt: skip
    folder = tmp_path / "split"
    folder.mkdir()
    model = onnx.load(path)
    onnx.save_model(
        model, folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0
    )
    outside, inside = import_onnx(path), import_onnx(folder / "m.onnx")
    assert all(map(equal_nodes, outside.nodes, inside.nodes))
    (folder / "m.data").rename(tmp_path / "m.data")
    with pytest.raises(FrontendError, match="no file 'm.data' beside"):
        import_onnx(folder / "m.onnx")
    (folder / "m.data").symlink_to(tmp_path / "m.data")
    with pytest.raises(FrontendError, match="outside the model's folder"):
        import_onnx(folder / "m.onnx")
    for location in ("../m.data", str(tmp_path / "m.data"), "/etc/passwd"):
        split = onnx.load(folder / "m.onnx", load_external_data=False)
        kept = next(tensor for tensor in split.graph.initializer if tensor.external_data)
        kept.external_data[0].value = location
        (folder / "n.onnx").write_bytes(split.SerializeToString())
        with pytest.raises(FrontendError, match="outside the model's folder"):
            import_onnx(folder / "n.onnx")
    (folder / "m.data").unlink()
    (folder / "m.data").write_bytes(b"short")
    with pytest.raises(FrontendError, match="which has 5"):
        import_onnx(folder / "m.onnx")


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    m = Model()
    x = m.fake("x", 0.02, np.uint8(120))
    pool = m.node("MaxPool", [layer(m, x, 4, TensorProto.INT4, (4, 3, 2, 2))], "pool",
                  kernel_shape=[2, 2], pads=[1, 0, 0, 1], ceil_mode=1)  # fmt: skip
    hidden = m.fake(pool, 0.05, np.uint8(99))
    mean = m.fake(m.node("ReduceMean", [hidden, m.constant("axes", [2, 3])], "mean", keepdims=0),
                  0.03, np.uint8(80))  # fmt: skip
    path = tmp_path_factory.mktemp("fuzz") / "m.onnx"
    return m.save(path, (1, 3, 5, 5), mean).read_bytes()


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_files_raise_frontend_errors(small_file: bytes, data: st.DataObject) -> None:
    content = bytearray(small_file)
    position = st.integers(0, len(content) - 1)
    for at in data.draw(st.lists(position, min_size=1, max_size=4)):
        content[at] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        start = data.draw(position)
        del content[start : start + data.draw(st.integers(0, 20))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.onnx")
        path.write_bytes(content)
        is_onnx(path)
        try:
            graph = import_onnx(path)
        except FrontendError:
            return
    assert graph.nodes


def resnet20(state: dict[str, torch.Tensor]) -> Model:
    """ResNet-20 for CIFAR-10 with batch normalization folded; shortcuts that halve the image are
    convolutions with an identity."""
    m = Model()

    def conv(source: str, index: str, norm: str, stride: int) -> str:
        scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + 1e-5).sqrt()
        weight = state[f"{index}.weight"] * scale[:, None, None, None]
        bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
        constants = [m.constant(f"{index}.w", weight), m.constant(f"{index}.b", bias)]
        return m.node("Conv", [source, *constants], index, pads=[1] * 4, strides=[stride] * 2)

    x = m.node("Relu", [conv("x", "conv1", "bn1", 1)], "relu")
    channels = 16
    for stage in (1, 2, 3):
        for block in (0, 1, 2):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            hidden = m.node(
                "Relu", [conv(x, f"{name}.conv1", f"{name}.bn1", stride)], f"{name}.relu"
            )
            hidden = conv(hidden, f"{name}.conv2", f"{name}.bn2", 1)
            if stride == 2:
                identity = np.zeros((2 * channels, channels, 1, 1), np.float32)
                np.fill_diagonal(identity[channels // 2 :, :, 0, 0], 1)
                kernel = m.constant(f"{name}.identity", identity)
                x = m.node("Conv", [x, kernel], f"{name}.shortcut", strides=[2, 2])
                channels *= 2
            x = m.node("Relu", [m.node("Add", [hidden, x], f"{name}.add")], name)
    x = m.node("Flatten", [m.node("GlobalAveragePool", [x], "pool")], "flat")
    layer = [m.constant(key, state[f"linear.{key}"]) for key in ("weight", "bias")]
    m.node("Gemm", [x, *layer], "linear", transB=1)
    return m


@pytest.mark.parametrize("kind", [QuantFormat.QDQ, QuantFormat.QOperator])
def test_resnet20_equals_onnxruntime(tmp_path: Path, kind: QuantFormat) -> None:
    folder = os.environ.get("BITLOOP_DATA")
    file = Path(folder or ".", "resnet20-12fca82f.th")
    if not folder or not file.is_file():
        pytest.skip(f"needs {file.name} in the folder that BITLOOP_DATA names")
    loaded = torch.load(file, weights_only=True, map_location="cpu")["state_dict"]
    state = {key.removeprefix("module."): value for key, value in loaded.items()}
    model = resnet20(state).save(tmp_path / "f.onnx", ("n", 3, 32, 32), "linear", opset=17)
    # Patches of one colour each, as far from noise as pictures are.
    batch = images(12, (3, 8, 8)).repeat(4, 2).repeat(4, 3)
    path = quantized(tmp_path, model, kind, QuantType.QUInt8, True, batch[:8])
    graph = import_onnx(path, 31)
    assert not any(compare(path, graph, batch[8:]).values())
    found = final(graph, batch[8:])[:, 0, 0]
    name = "linear_QuantizeLinear_Output" if kind is QuantFormat.QDQ else "linear_quantized"
    expected = run(path, batch[8:], {name})[name]
    np.testing.assert_array_equal(found, expected)
