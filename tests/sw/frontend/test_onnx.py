# SPDX-License-Identifier: Apache-2.0
"""ONNX models, quantized by ONNX Runtime or by hand, imported and compared with ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from onnx_models import (
    Model,
    assert_close,
    compare,
    equal_nodes,
    final,
    images,
    layer,
    network,
    quantized,
    run,
    unsigned,
)
from onnxruntime.quantization import (
    QuantFormat,
    QuantType,
)
from torch import nn
from typer.testing import CliRunner

import bitloop
from bitloop.cli import app
from bitloop.frontend.onnx_model import import_onnx
from bitloop.frontend.torch_export import import_program
from bitloop.graph.execute import execute
from bitloop.graph.ir import Conv
from bitloop.quantize import quantize


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


def test_compiles_whatever_the_name(tmp_path: Path) -> None:
    """From the file to the binary's program, which the reference device executes."""
    model = network().save(tmp_path / "float.onnx", ("batch", 3, 16, 16), "y", opset=17)
    path = quantized(tmp_path, model, QuantFormat.QOperator, QuantType.QInt8, True, images(4))
    path = path.rename(tmp_path / "network")
    binary = tmp_path / "network.bitloop"
    arguments = ["compile", str(path), "--preset", "n8", "--set", "multiplier_bits=31"]
    result = CliRunner().invoke(app, [*arguments, "-o", str(binary)])
    assert result.exit_code == 0, result.output
    assert "y: softmax is computed by the host" in result.output
    graph = import_onnx(path, 31)
    spec = graph.tensors[graph.inputs[0]]
    raw = np.random.default_rng(5).integers(-128, 128, (3, 3, 16, 16)).astype(np.int8)
    found = bitloop.load(binary).run_raw(raw)
    assert isinstance(found, np.ndarray) and found.dtype == np.int8 and found.shape == (3, 10)
    expected = execute(graph, {spec.name: unsigned(raw, spec)})[graph.outputs[0]]
    np.testing.assert_array_equal(found.astype(int) + 128, expected[:, 0, 0])


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
