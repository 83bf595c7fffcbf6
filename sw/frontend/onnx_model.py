# SPDX-License-Identifier: Apache-2.0
"""Front end for quantized ONNX models, with quantize and dequantize operators (QDQ, QCDQ, QONNX's
Quant) or with operators on codes (QLinearConv and the like).

Activations are uint8 or int8, per tensor; weights have 8, 4 or 2 bits, per output channel or per
tensor. Their width is that of their type or of the clip after their quantize operator; codes of a
whole byte are kept in the narrowest width that holds them all, because ONNX has no other way to say
it for most tools (PyTorch's exporter drops the limits). A bias in the accumulator's unit stays an
integer; any other is a real value.

With 31-bit multipliers the codes equal ONNX Runtime's (on processors with VNNI), but for sums and
averages next to a tie, which it computes in float32, and for products that it leaves to its float32
kernels: those with real biases and, between quantize operators, many with int8 activations.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BitloopError, FrontendError
from ..graph.ir import Graph
from .lowering import GraphBuilder, Quantization, Real, Unsupported
from .names import unique
from .onnx_arrange import as_image
from .onnx_axes import input_axes, result_layout
from .onnx_constants import fold
from .onnx_file import OnnxInput, OnnxModel, OnnxNode, is_onnx, printable, read_model
from .onnx_integer import INTEGER
from .onnx_operands import Handler, Results, Value, activation, pending, real
from .onnx_parts import PARTS
from .onnx_pointwise import POINTWISE
from .onnx_products import PRODUCTS
from .onnx_quantizers import QUANTIZERS
from .onnx_shapes import SHAPES
from .onnx_values import Activation, Codes, Host, Input
from .onnx_windows import WINDOWS

__all__ = ["import_onnx", "is_onnx", "read_onnx"]

HANDLERS: dict[str, Handler] = {
    **QUANTIZERS, **PRODUCTS, **WINDOWS, **POINTWISE, **SHAPES, **PARTS, **INTEGER,
}  # fmt: skip
"""What to do for each operator: (importer, node, values of its inputs) -> its result, or
`Results`."""

WEIGHTED = frozenset(
    {"Conv", "ConvTranspose", "Gemm", "MatMul", "QLinearConv", "QLinearMatMul", "QGemm"}
)

_DYNAMIC = "dynamic quantization takes scales from each image: quantize statically"
_PRODUCT = "products of two tensors are no part of the core"
REASONS = {
    "ConvInteger": _DYNAMIC,
    "MatMulInteger": _DYNAMIC,
    "DynamicQuantizeLinear": _DYNAMIC,
    "Attention": _PRODUCT,
    "Einsum": _PRODUCT,
    "LSTM": "recurrent layers are not supported",
    "GRU": "recurrent layers are not supported",
    "RNN": "recurrent layers are not supported",
}
"""Why some operators are refused; the rest are `not supported`."""

_REPORTED = 50
"""Problems listed at most."""

_UNKNOWN = object()
"""Value of an operator already reported; its consumers are not reported again."""


def import_onnx(path: str | Path, multiplier_bits: int = 16) -> Graph:
    """The integer graph of the quantized model in the file at `path`, named after the file.

    A last softmax or arg-max is left to the host (`Graph.host`). Raises `FrontendError` for a
    damaged or foreign file, a float model, and listing every operator that is not supported.
    """
    return read_onnx(path, multiplier_bits)[0]


def read_onnx(path: str | Path, multiplier_bits: int = 16) -> tuple[Graph, tuple[str, ...]]:
    """As `import_onnx`, with a note on each result that the host finishes."""
    name = Path(path).stem
    model = read_model(path)
    if not any(_quantizes(node.operator) for node in model.nodes):
        raise FrontendError(
            f"{path}: the model is not quantized; quantize it first, e.g. with "
            "onnxruntime.quantization.quantize_static"
        )
    try:
        importer = _Importer(model, name, multiplier_bits)
        return importer.run(), tuple(importer.notes)
    except FrontendError:
        raise
    except BitloopError as error:
        raise FrontendError(f"{name}: {error}") from error
    except Exception as error:  # sizes no array can have, and the like
        raise FrontendError(f"{path}: the model is damaged ({_reason(error)})") from None


def _quantizes(operator: str) -> bool:
    return "Q" in operator and "Linear" in operator or operator.endswith("Quant")


def _reason(error: Exception) -> str:
    return printable((str(error).splitlines() or [type(error).__name__])[0])


class _Importer:
    """Walks the model once, keeping a value for every tensor."""

    def __init__(self, model: OnnxModel, name: str, multiplier_bits: int) -> None:
        self.model = model
        self.title = name
        self.values: dict[str, Value] = dict(model.constants)
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.opset = model.opset
        self.codes: dict[tuple[int, Quantization], Codes] = {}
        self.reals: dict[int, Real] = {}
        self.alive: list[Any] = []
        self.curves: dict[str, tuple[str, NDArray[np.uint8]]] = {}
        taken: set[str] = set()
        self.layers = {
            id(node): unique(node.module or node.name, taken)
            for node in model.nodes
            if node.operator in WEIGHTED
        }
        self.builder = GraphBuilder(name, multiplier_bits, frozenset(self.layers.values()))

    def name(self, node: OnnxNode) -> str:
        return self.layers.get(id(node)) or node.module or node.name

    def run(self) -> Graph:
        for value in self.model.inputs:
            self._define(value.name, self._input(value))
        for node in self.model.nodes:
            result = self._call(node)
            results = result if isinstance(result, Results) else (result,)
            for i, output in enumerate(node.outputs):
                if output and (i < len(results) or result is _UNKNOWN):
                    self._define(output, _UNKNOWN if result is _UNKNOWN else results[i])
        outputs = [] if self.problems else [self._output(name) for name in self.model.outputs]
        if len(set(outputs)) != len(outputs) or set(outputs) & set(self.builder.inputs):
            raise FrontendError(
                f"{self.title}: a result is another result or an input of the model"
            )
        if self.problems:
            more = len(self.problems) - _REPORTED
            listed = self.problems[:_REPORTED] + ([f"and {more} more"] if more > 0 else [])
            raise FrontendError(
                f"{self.title}: cannot be turned into integers:\n  " + "\n  ".join(listed)
            )
        return self.builder.build(tuple(outputs))

    def _define(self, name: str, value: Value) -> None:
        if name in self.values:
            raise FrontendError(f"{self.title}: tensor {printable(name)!r} has two producers")
        self.values[name] = value

    def _input(self, value: OnnxInput) -> Activation:
        layout = "NHWC" if self._channels_last(value) else "NCHW"
        name = printable(value.name) or "input"
        axes, image = input_axes(value.shape, layout, value.batched)
        source = Input(
            name, image, value.shape[1:], value.dtype, layout if len(value.shape) > 2 else "NC"
        )
        return Activation(source, value.shape, axes, image)

    def _channels_last(self, value: OnnxInput) -> bool:
        """Whether the model moves the channels of this input to the front, or multiplies them."""
        names = {value.name}
        orders = {4: [0, 3, 1, 2], 3: [0, 2, 1]}
        for node in self.model.nodes:
            if names.isdisjoint(node.inputs[:1]):
                continue
            if node.operator == "Transpose":
                return node.attributes.get("perm") == orders.get(len(value.shape))
            if node.operator in ("MatMul", "QLinearMatMul"):
                return True
            if node.operator in ("QuantizeLinear", "DequantizeLinear", "Identity", "Clip") or (
                node.operator.endswith("Quant")
            ):
                names.update(node.outputs[:1])
        return False

    def _call(self, node: OnnxNode) -> Value:
        """The node's result, with what cannot be done reported."""
        missing = [name for name in node.inputs if name and name not in self.values]
        operands = [self.values.get(name) if name else None for name in node.inputs]
        try:
            if missing:
                raise Unsupported(
                    f"its input {printable(missing[0])!r} is made by no operator before it "
                    "(a cycle, or a second result)"
                )
            if any(value is _UNKNOWN for value in operands):
                return _UNKNOWN
            if operands and all(value is None or isinstance(value, np.ndarray)
                                for value in operands):  # fmt: skip
                folded = fold(node.operator, node.attributes, operands)
                if folded is not None:
                    return folded
            handler = HANDLERS.get(node.operator)
            if handler is None:
                raise Unsupported(REASONS.get(node.operator, "operator not supported"))
            return handler(self, node, operands)
        except (Unsupported, BitloopError) as error:
            reason = str(error)
        except Exception as error:  # attributes of another type than the operator's
            reason = f"damaged ({_reason(error)})"
        self.problems.append(f"{node.name} ({node.operator}): {reason}")
        return _UNKNOWN

    def _output(self, name: str) -> str:
        value = self.values.get(name)
        if not isinstance(value, Activation):
            raise FrontendError(
                f"{self.title}: result {printable(name)!r} is made by no operator"
                + (", it is a constant" if name in self.values else "")
            )
        try:
            if isinstance(value.value, Host):
                return self._host(name, value.value)
            return self._result(activation(value))
        except Unsupported as error:
            raise FrontendError(f"{self.title}: {printable(name)}: {error}") from None

    def _host(self, name: str, host: Host) -> str:
        tensor = self._result(host.source)
        batched = "N" in "".join(host.source.axes) or host.source.shape[0] == 1
        self.builder.host(host.operator, tensor, host.axis + (not batched), printable(name))
        self.notes.append(f"{printable(name)}: {host.operator} is computed by the host")
        return tensor

    def _result(self, value: Activation) -> str:
        source = value.value
        known = source.real() if isinstance(source, Codes) else pending(value, "result")
        try:
            described = result_layout(value.axes, value.shape)
        except Unsupported:
            if len(value.shape) not in (3, 4):
                raise
            value = as_image(self, value.like(value=known))
            known, described = pending(value), result_layout(value.axes, value.shape)
        tensor = real(self, value.like(value=known), "result").tensor
        self.builder.output(tensor, *described)
        return tensor
