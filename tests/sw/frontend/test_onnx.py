# SPDX-License-Identifier: Apache-2.0
"""ONNX models, quantized by ONNX Runtime or by hand, imported and compared with ONNX Runtime."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from torch import nn

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
    if codes.ndim == 4 and spec.source_layout != "NHWC":
        return codes.transpose(0, 2, 3, 1)
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
    calibration: NDArray[np.float32],
) -> Path:  # fmt: skip
    path = folder / "quantized.onnx"
    quantize_static(
        model, path, Images(calibration), quant_format=kind, per_channel=per_channel,
        activation_type=activations, weight_type=QuantType.QInt8,
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


def final(graph: Graph, x: NDArray[np.float32]) -> NDArray[np.uint8]:
    source = graph.inputs[0]
    return execute(graph, {source: encode(graph.tensors[source], x)})[graph.outputs[0]]
