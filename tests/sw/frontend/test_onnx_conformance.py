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
from onnx_models import NEAR
from onnx_wrapped import Wrapped, quantized

from bitloop.errors import FrontendError
from bitloop.frontend.onnx_model import HANDLERS, import_onnx
from bitloop.graph.execute import execute
from bitloop.graph.ir import Graph, TensorSpec

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
