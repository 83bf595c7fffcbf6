# SPDX-License-Identifier: Apache-2.0
"""ONNX models for tests, made by hand or by ONNX Runtime, and its results to compare with.

On x86 processors without VNNI instructions ONNX Runtime saturates sums of products at 16 bits, and
is no reference then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

from bitloop.graph.execute import execute, run_node
from bitloop.graph.ir import Add, AvgPool, Graph, Node, TensorSpec

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


def layers(
    path: Path, graph: Graph, x: NDArray[np.float32]
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8], Node]]:
    """(found, expected, node) of every node on ONNX Runtime's own codes."""
    names = code_names(path, graph)
    results = run(path, x, set(names.values()))
    source = graph.inputs[0]
    values = {source: encode(graph.tensors[source], x)}
    for node in graph.nodes:
        values[node.output] = unsigned(results[names[node.output]], graph.tensors[node.output])
        found = run_node(graph, node, [values[name] for name in node.inputs])
        yield found, values[node.output], node


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
