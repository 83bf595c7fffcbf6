# SPDX-License-Identifier: Apache-2.0
"""ONNX's own conformance cases (`onnx.backend.test.case.node`) for every operator of the front end.

Cases on codes run as they are. Float cases are wrapped in quantize and dequantize operators whose
scales come from the case's data; expected are the reference evaluator's results on the dequantized
values, quantized. Their codes must be equal but for ties, which both round in float32: within
`NEAR` codes of one, by one code, counted. Every case of the operators is either run or refused for
the reason in `REFUSED`, so that a new one is noticed.
"""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx_models import NEAR

from bitloop.errors import FrontendError
from bitloop.frontend.onnx_model import HANDLERS, import_onnx
from bitloop.graph.execute import execute
from bitloop.graph.ir import Graph, TensorSpec

FLOAT_TYPES = (TensorProto.FLOAT,)
CODE_TYPES = (TensorProto.UINT8, TensorProto.INT8)

REFUSED: tuple[tuple[str, str], ...] = (
    # Types: activations are bytes; models quantize to uint8 or int8.
    (r"cast(like)?_.*", "is no tensor|holds|changes only by quantize operators|like|INT|FLOAT"),
    (r".*(int16|int32|int32_trunc|int64|uint16|uint32|uint64)", "holds U?INT|activation codes of"),
    (r"(edge|reflect|wrap)_pad", "holds INT32"),
    (r"pow_types_int.*", "holds INT"),
    (r"(celu|swiglu|max|min)_(b?float16|float64)(_expanded)?", "holds (B?FLOAT16|DOUBLE)"),
    (r"(de)?quantizelinear_(e4m3fn|e5m2|float4|u?int[24]).*", "is no tensor"),
    (r"identity_(opt|sequence)", "is no tensor"),
    # Integer arithmetic without scales.
    (r"(add|sub|mul|div|max|min)_u?int8", "for a tensor of shape|must be one number"),
    # Scales for channels or blocks of activations; a scale given twice.
    (r"(de)?quantizelinear_(axis|blocked.*)", "one a channel|scales of blocks"),
    (r"dequantizelinear", "differ from the quantize operator's"),
    # Three spatial axes; six axes.
    (r"(averagepool|convtranspose|maxpool)_3d.*", "5 dimensions"),
    (r"(depthtospace|spacetodepth).*_expanded", "more than three axes"),
    (r"group_normalization.*_expanded", "more than three axes"),
    # The batch is never summed over, cut or counted.
    (r"flatten_.*axis[0-4]", "reshape of|the batch is not the first axis"),
    (r"gather_0", "indices of the batch"),
    (r"gemm_(all_attributes|transposeA)", "the batch would be summed"),
    (r"gemm_default_matrix_bias", "bias of shape"),
    (r"reduce_.*_expanded|mvn_expanded.*", "the batch|is not quantized|has the shape"),
    (r"shape.*", "it is a constant"),
    # Nothing to compute, or nothing left.
    (r"clip_default_int8_inbounds(_expanded)?", "result is another result or an input"),
    (r"(reduce_sum_empty|reshape_allowzero|split_zero_size).*", "has the shape"),
    (r"slice_start_out_of_bounds", "a part of 0"),
    # Products, quotients and extremes of two tensors; weights that are another tensor's batch.
    (r"(mul|div)(_example)?", "of two tensors"),
    (r"(max|min)_(float32|two_inputs)", "of two tensors"),
    (r"(max|min|sum)_example", "3 operands"),
    (r"swiglu.*_expanded", "for a tensor of shape|is not quantized"),
    (r"pow(_bcast_array|_example|_types_float32_u?int(32|64))?", "exponent must be one number"),
    (r"prelu_.*", "only one for all"),
    (r"(qlinear)?matmul_.*", "weight of shape"),
    (r"rotary_embedding.*_expanded", "constants|parts of|a factor of shape"),
    (r"causal_conv_with_state.*_expanded", "its operand is a constant"),
    # What the core or the host does not do.
    (r"resize_.*(linear|crop_and_resize|cubic).*", "only nearest"),
    (r"argmax_.*_select_last_index", "select_last_index|over the batch"),
    (r"maxpool_with_argmax.*", "made by no operator"),
    (r"(training_dropout|batchnorm).*", "training mode"),
    (r"clip_min_greater_than_max", "must not be above"),
    (r"acosh.*", "not a number for some"),
    (r"gather_2d_indices", "indices of shape"),
)
"""Cases that cannot run: patterns of their names and of the reasons given."""


@functools.cache
def cases() -> dict[str, Any]:
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collect_testcases(None)
    return {case.name.removeprefix("test_"): case for case in found}


def operators(case: Any) -> set[str]:
    return {node.op_type for node in case.model.graph.node if node.op_type != "Constant"}


@functools.cache
def of(operator: str) -> list[str]:
    """Cases whose operators the front end has, filed under the first of them."""
    return sorted(
        name
        for name, case in cases().items()
        if operators(case) <= set(HANDLERS) and min(operators(case), default="") == operator
    )


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


WEIGHTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
PAIRS = ("Add", "Sub", "Mul", "Div", "Min", "Max")
HOST = ("Softmax", "LogSoftmax", "ArgMax")


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


def to_graph(spec: TensorSpec, codes: NDArray) -> NDArray[np.uint8]:
    """Codes in the model's shape and type as the graph holds them."""
    if codes.dtype == np.int8:
        codes = (codes.astype(np.int16) + 128).astype(np.uint8)
    height, width, channels = spec.shape
    if spec.source_layout == "NCHW":
        return codes.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
    return codes.reshape(-1, height, width, channels)


def from_graph(spec: TensorSpec, codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if spec.source_layout == "NCHW":
        codes = codes.transpose(0, 3, 1, 2)
    return codes.reshape(codes.shape[0], *spec.source_shape)


def golden(graph: Graph, feeds: dict[str, NDArray]) -> list[NDArray]:
    """Unsigned codes of the results, in the model's shapes."""
    inputs = {}
    for name in graph.inputs:
        spec, value = graph.tensors[name], feeds[name]
        if value.dtype == np.float32:
            value = np.clip(np.rint(value / np.float32(spec.scale)) + spec.zero_point, 0, 255)
            value = value.astype(np.uint8)
        inputs[name] = to_graph(spec, value)
    results = execute(graph, inputs)
    return [from_graph(graph.tensors[name], results[name]) for name in graph.outputs]


def check(case: Any, inner: bool, path: Path) -> tuple[int, int]:
    """Values compared, and how many of them differ next to a tie; raises `FrontendError`."""
    wrapped = Wrapped(case, inner)
    expected = wrapped.expected()
    found = wrapped.save(path, expected)
    graph = import_onnx(path, 31)
    results = golden(graph, wrapped.feeds)
    names = [value.name for value in onnx.load(path).graph.output]
    assert len(results) == len(names)
    total = ties = 0
    for name, tensor, codes in zip(names, graph.outputs, results, strict=True):
        spec = graph.tensors[tensor]
        offset = 128 if spec.source_dtype == "int8" else 0
        if name not in found and graph.host:
            total += check_host(graph, codes, expected[name], inner)
            continue
        if name not in found:
            reference = expected[name]
            wanted = reference.astype(np.int64) + offset
            position = wanted.astype(np.float64)
        else:
            source, scale, zero = found[name]
            reference = np.asarray(expected[source])
            with np.errstate(over="ignore", invalid="ignore"):
                position = reference.astype(np.float64) / scale + (int(zero) + offset)
            reals = reference.astype(np.float32)
            wanted = quantized(reals, scale, zero).astype(np.int64) + offset
        different = codes.astype(np.int64).reshape(wanted.shape) - wanted
        assert np.abs(different).max(initial=0) <= 1
        near = np.abs(position[different != 0] % 1 - 0.5)
        assert near.max(initial=0) < NEAR
        total += wanted.size
        ties += int(np.count_nonzero(different))
    return total, ties


def check_host(graph: Graph, codes: NDArray, expected: NDArray, inner: bool) -> int:
    """What the host makes of the codes' real values."""
    (host,) = graph.host
    spec = graph.tensors[host.input]
    real = (codes.astype(np.float32) - spec.zero_point) * np.float32(spec.scale)
    if host.operator == "argmax":
        result = real.argmax(host.axis).reshape(expected.shape)
        np.testing.assert_array_equal(result, expected)
        return expected.size
    shifted = real - real.max(host.axis, keepdims=True)
    result = shifted - np.log(np.exp(shifted).sum(host.axis, keepdims=True))
    if host.operator == "softmax":
        result = np.exp(result)
    np.testing.assert_allclose(result.reshape(expected.shape), expected, rtol=1e-5, atol=1e-6)
    return expected.size


def attempt(case: Any, path: Path) -> tuple[int, int] | str:
    """What `check` says, with the case's first axis as batch or without one; or why not."""
    reasons = []
    values: Sequence[Any] = case.data_sets[0][0]
    rank = values[0].ndim if values and isinstance(values[0], np.ndarray) else 0
    for inner in (False, True) if rank > 1 else (True,):
        try:
            return check(case, inner, path)
        except FrontendError as error:
            reasons.append(str(error))
    return " / ".join(reasons)


def refused(name: str, outcome: str) -> bool:
    assert "damaged" not in outcome, outcome  # a mistake of the front end's, not of the file
    return any(re.fullmatch(p, name) and re.search(why, outcome) for p, why in REFUSED)


@pytest.mark.parametrize("operator", sorted(HANDLERS))
def test_cases(operator: str, tmp_path: Path, record_property: Any) -> None:
    total = ties = ran = 0
    for name in of(operator):
        outcome = attempt(cases()[name], tmp_path / "case.onnx")
        if isinstance(outcome, str):
            assert refused(name, outcome), f"{name}: {outcome}"
            continue
        ran += 1
        total += outcome[0]
        ties += outcome[1]
    for key, value in (("cases", ran), ("values", total), ("ties", ties)):
        record_property(key, value)
    assert ties <= 0.001 * total + 1, f"{ties} of {total} next to ties"


RUN = (
    "Conv ConvTranspose MaxPool AveragePool GlobalAveragePool GlobalMaxPool Gemm MatMul Relu Clip "
    "LeakyRelu Sigmoid HardSigmoid HardSwish Tanh Elu Softplus Erf Gelu Concat Reshape Flatten "
    "Squeeze Unsqueeze Transpose Softmax LogSoftmax ArgMax BatchNormalization Add Sub Mul "
    "QLinearConv QLinearMatMul Resize Upsample Slice Split Pad Gather ReduceMean Identity Dropout"
).split()


@pytest.mark.parametrize("operator", RUN)
def test_every_operator_runs_a_case(operator: str, tmp_path: Path) -> None:
    outcomes = (attempt(cases()[name], tmp_path / "case.onnx") for name in of(operator))
    assert any(not isinstance(outcome, str) for outcome in outcomes)


def test_every_refusal_is_of_a_case() -> None:
    names = [name for operator in HANDLERS for name in of(operator)]
    for pattern, _ in REFUSED:
        assert any(re.fullmatch(pattern, name) for name in names), pattern
