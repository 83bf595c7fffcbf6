# SPDX-License-Identifier: Apache-2.0
"""Float cases of ONNX's conformance suite as quantized models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from bitloop.errors import FrontendError

FLOAT_TYPES = (TensorProto.FLOAT,)
CODE_TYPES = (TensorProto.UINT8, TensorProto.INT8)
WEIGHTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
PAIRS = ("Add", "Sub", "Mul", "Div", "Min", "Max")
HOST = ("Softmax", "LogSoftmax", "ArgMax")


class Wrapped:
    """A case between quantize and dequantize operators.

    `inner`: the case's tensors have no batch; it is squeezed away inside the model.
    """

    def __init__(self, case: Any, inner: bool) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(case.model)
        self.graph = self.model.graph
        self.inner = inner
        self.before: list[onnx.NodeProto] = []
        self.after: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.feeds: dict[str, NDArray] = {}
        self.reference: dict[str, NDArray] = {}
        node = case.model.graph.node[0]
        values = dict(zip([v.name for v in self.graph.input], case.data_sets[0][0], strict=True))
        kinds = {v.name: v.type.tensor_type.elem_type for v in self.graph.input}
        first = next(iter(values))
        for name, value in values.items():
            if not isinstance(value, np.ndarray | np.generic):
                raise FrontendError(f"{name} is no tensor")
            value = np.asarray(value)
            operand = list(node.input).index(name) if name in node.input else 0
            if node.op_type.startswith("QLinear") and name == first:
                self.add_input(name, value, kinds[name])
                self.reference[name] = value
            elif name == first or (
                kinds[name] in FLOAT_TYPES
                and len(case.model.graph.node) == 1
                and (node.op_type == "Concat" or node.op_type in PAIRS and (
                    value.shape == values[first].shape))
            ):  # fmt: skip
                self.activation(name, value, kinds[name])
            elif node.op_type in WEIGHTS and operand == 1 and kinds[name] in FLOAT_TYPES:
                self.weight(name, value)
            else:
                self.constant(name, value)
                self.reference[name] = value
        self.codes = kinds[first] in CODE_TYPES

    def constant(self, name: str, value: NDArray) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add_input(self, name: str, value: NDArray, kind: int) -> None:
        fed = value[None] if self.inner else value
        self.inputs.append(helper.make_tensor_value_info(name, kind, fed.shape))
        self.feeds[name] = fed

    def activation(self, name: str, value: NDArray, kind: int) -> None:
        if kind not in (*FLOAT_TYPES, *CODE_TYPES):
            raise FrontendError(f"{name} holds {TensorProto.DataType.Name(kind)}")
        if not value.ndim or not value.size:
            raise FrontendError(f"{name} has the shape {value.shape}")
        if kind in CODE_TYPES:
            scale, zero = np.float32(1), value.dtype.type(0)
        elif self.model.graph.node[0].op_type in HOST:
            scale, zero = parameters(value, 120.0)
        else:
            scale, zero = parameters(value, 255.0)
        real = dequantized(quantized(value.astype(np.float32), scale, zero), scale, zero)
        self.reference[name] = real.astype(value.dtype)
        self.add_input(f"{name}_real", real, TensorProto.FLOAT)
        pair = [self.constant(f"{name}_s", scale), self.constant(f"{name}_z", zero)]
        codes = name if kind in CODE_TYPES and not self.inner else f"{name}_codes"
        self.before.append(helper.make_node("QuantizeLinear", [f"{name}_real", *pair], [codes]))
        if kind in CODE_TYPES:
            if self.inner:
                self.squeeze(codes, name)
            return
        if self.model.graph.node[0].op_type in HOST:
            # Codes twice as fine first: a graph that the host finishes must have a node.
            fine = [self.constant(f"{name}_s2", scale / 2), self.constant(f"{name}_z2", zero * 2)]
            self.before[-1] = helper.make_node("QuantizeLinear", [f"{name}_real", *fine], ["fine"])
            self.before.append(helper.make_node("DequantizeLinear", ["fine", *fine], ["again"]))
            self.before.append(helper.make_node("QuantizeLinear", ["again", *pair], [codes]))
        out = f"{name}_wide" if self.inner else name
        self.before.append(helper.make_node("DequantizeLinear", [codes, *pair], [out]))
        if self.inner:
            self.squeeze(out, name)

    def squeeze(self, source: str, name: str) -> None:
        inputs = [source]
        if opset(self.model) >= 13:
            axes = {}
            inputs.append(self.constant(f"{name}_axes", np.array([0], np.int64)))
        else:
            axes = {"axes": [0]}
        self.before.append(helper.make_node("Squeeze", inputs, [name], **axes))

    def weight(self, name: str, value: NDArray) -> None:
        scale = np.float32(max(np.abs(value).max() / 127, 1e-6))
        codes = np.clip(np.rint(value / scale), -127, 127).astype(np.int8)
        self.reference[name] = codes * scale
        parts = [self.constant(f"{name}_codes", codes), self.constant(f"{name}_s", scale)]
        self.before.append(helper.make_node("DequantizeLinear", parts, [name]))

    def expected(self) -> dict[str, NDArray]:
        """The reference evaluator's results on the dequantized inputs."""
        names = [value.name for value in self.graph.output]
        feeds = {value.name: self.reference[value.name] for value in self.graph.input}
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(self.model).run(None, feeds)
        return dict(zip(names, results, strict=True))

    def save(self, path: Path, expected: dict[str, NDArray]) -> dict[str, Any]:
        """Writes the model; parameters of each output that is quantized."""
        outputs, found = [], {}
        used = {name for node in self.graph.node for name in node.input}
        for value in self.graph.output:
            name, result = value.name, expected[value.name]
            if value.type.tensor_type.elem_type == TensorProto.BOOL or name in used:
                continue
            operator = self.graph.node[-1].op_type
            if operator.startswith("Q") or operator in HOST:
                outputs.append(name)
                continue
            last = name
            if self.inner:
                last = self.unsqueeze(name)
            kind = np.asarray(result).dtype
            if kind in (np.uint8, np.int8):
                scale, zero = np.float32(1), kind.type(0)
            else:
                scale, zero = parameters(np.asarray(result), 238.0)
            pair = [self.constant(f"{name}_s", scale), self.constant(f"{name}_z", zero)]
            if kind not in (np.uint8, np.int8):
                self.after.append(helper.make_node("QuantizeLinear", [last, *pair], [f"{name}_q"]))
                last = f"{name}_q"
            self.after.append(helper.make_node("DequantizeLinear", [last, *pair], [f"{name}_out"]))
            outputs.append(f"{name}_out")
            found[f"{name}_out"] = (name, scale, zero)
        graph = helper.make_graph(
            [*self.before, *self.graph.node, *self.after], "case", self.inputs,
            [helper.make_empty_tensor_value_info(name) for name in outputs], self.constants,
        )  # fmt: skip
        imports = [helper.make_opsetid("", max(opset(self.model), 10))]
        onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)
        return found

    def unsqueeze(self, name: str) -> str:
        if opset(self.model) >= 13:
            inputs = [name, self.constant(f"{name}_out_axes", np.array([0], np.int64))]
            self.after.append(helper.make_node("Unsqueeze", inputs, [f"{name}_wide"]))
        else:
            self.after.append(helper.make_node("Unsqueeze", [name], [f"{name}_wide"], axes=[0]))
        return f"{name}_wide"


def opset(model: onnx.ModelProto) -> int:
    return max(entry.version for entry in model.opset_import if entry.domain == "")


def parameters(values: NDArray, steps: float) -> tuple[np.float32, np.uint8]:
    """Scale and zero-point of uint8 codes for what is finite of `values`."""
    finite = values[np.isfinite(values)].astype(np.float64)
    low, high = min(finite.min(initial=0), 0), max(finite.max(initial=0), 0)
    scale = np.float32((high - low) / steps or 1)
    return scale, np.uint8(np.clip(np.rint(-low / scale), 0, 255))


def quantized(values: NDArray, scale: np.float32, zero: Any) -> NDArray:
    ends = np.iinfo(zero.dtype)
    with np.errstate(over="ignore"):
        return np.clip(np.rint(values / scale) + np.float32(zero), ends.min, ends.max).astype(
            zero.dtype
        )


def dequantized(codes: NDArray, scale: np.float32, zero: Any) -> NDArray[np.float32]:
    return (codes.astype(np.float32) - np.float32(zero)) * scale
