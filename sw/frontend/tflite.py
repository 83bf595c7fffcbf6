# SPDX-License-Identifier: Apache-2.0
"""Front end for TensorFlow Lite models quantized to int8.

With 31-bit multipliers the graph computes the codes of LiteRT's default kernels (XNNPACK, and its
own int8 average pooling), except where a float32 product rounds to a tie that no constant of its
channel can follow: 6 of 20 million codes inside ResNet-8 on random images. A softmax, log-softmax
or arg-max at the end stays with the host: the graph ends at the logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import BitloopError, FrontendError
from ..graph.ir import Graph
from .lowering import Quantization, Real, Unsupported
from .names import unique
from .tflite_builder import CodeBuilder
from .tflite_file import IDENTIFIER, Model, Operator, Tensor, read_model
from .tflite_operators import HANDLERS, REASONS, WEIGHTED, layer_name
from .tflite_values import Activation, Host, Value, image_shape, quantization_of

MAX_CHANNELS = 1 << 18
"""Output channels of all operators together."""
MAX_MADE = 1 << 26
"""Weights that no file holds: of convolutions that pad, repeat or pick pixels."""

__all__ = ["Imported", "import_tflite", "is_tflite", "read_tflite"]


@dataclass(frozen=True, eq=False)
class Imported:
    """A graph and what of the model it leaves out."""

    graph: Graph
    notes: tuple[str, ...]
    """What the host computes from the graph's outputs, and which layers differ from LiteRT."""


def is_tflite(file: str | Path | bytes) -> bool:
    """Whether a file, or the first bytes of one, is marked as TensorFlow Lite. Raises `OSError`."""
    if not isinstance(file, bytes):
        with Path(file).open("rb") as stream:
            file = stream.read(8)
    return file[4:8] == IDENTIFIER


def import_tflite(path: str | Path, multiplier_bits: int = 16) -> Graph:
    """The integer graph of the model at `path`, to the logits where it ends in a softmax.

    Raises `FrontendError` for a missing or damaged file, and listing every operator that is not
    supported.
    """
    return read_tflite(path, multiplier_bits).graph


def read_tflite(path: str | Path, multiplier_bits: int = 16) -> Imported:
    """As `import_tflite`, with what is left to the host."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise FrontendError(f"{path}: no such file") from None
    except OSError as error:
        raise FrontendError(f"{path}: cannot be read: {error.strerror}") from None
    model = read_model(content, str(path))
    try:
        return _Importer(model, path.stem, multiplier_bits).run()
    except FrontendError as error:
        raise FrontendError(f"{path}: {error}") from None
    except BitloopError as error:
        raise FrontendError(f"{path}: {error}") from error


class _Importer:
    """Walks the operators once, keeping a value for every tensor made so far."""

    def __init__(self, model: Model, name: str, multiplier_bits: int) -> None:
        self.model = model
        self.values: dict[int, Value] = {}
        self.unknown: set[int] = set()
        """Results of operators already reported; their consumers are not reported again."""
        self.weights = 4 * sum(t.data.size for t in model.tensors if t.data is not None)
        self.channels = MAX_CHANNELS
        self.made = MAX_MADE
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.names = self._names()
        layers = {
            name
            for operator, name in zip(model.operators, self.names, strict=True)
            if operator.kind in WEIGHTED
        }
        self.builder = CodeBuilder(name, multiplier_bits, frozenset(layers), single_precision=True)

    def _names(self) -> list[str]:
        taken: set[str] = set()
        return [
            unique(layer_name(self.model, operator, index), taken)
            for index, operator in enumerate(self.model.operators)
        ]

    def run(self) -> Imported:
        for index in self.model.inputs:
            try:
                self._input(index)
            except Unsupported as error:
                self._report(self.model.tensors[index].name, "input", str(error), (index,))
        for operator, name in zip(self.model.operators, self.names, strict=True):
            if not self.unknown.intersection(operator.inputs):
                try:
                    self._operator(operator, name)
                except (Unsupported, BitloopError) as error:
                    self._report(name, operator.kind, str(error), operator.outputs)
            else:
                self.unknown.update(operator.outputs)
                if operator.kind not in HANDLERS:
                    self._report(name, operator.kind, _reason(operator), operator.outputs)
        outputs: list[str] = []
        for index in self.model.outputs:
            if index not in self.unknown:
                try:
                    outputs.append(self._output(index))
                except (Unsupported, BitloopError) as error:
                    self._report(self.model.tensors[index].name, "output", str(error), (index,))
        if not self.problems and len(set(outputs)) != len(outputs):
            self._report(self.builder.name, "outputs", "two results are one tensor", ())
        if self.problems:
            listed = "\n  ".join(self.problems)
            raise FrontendError(f"cannot be turned into integers:\n  {listed}")
        for name, (channels, codes) in self.builder.inexact.items():
            self.notes.append(
                f"{name}: {channels} channels round up to {codes} of their 256 codes otherwise "
                "than LiteRT, by one"
            )
        return Imported(self.builder.build(tuple(outputs)), tuple(self.notes))

    def _report(self, name: str, kind: str, why: str, results: tuple[int, ...]) -> None:
        self.problems.append(f"{name} ({kind}): {why}")
        self.unknown.update(results)

    def _input(self, index: int) -> None:
        tensor = self.model.tensors[index]
        if index in self.values or tensor.data is not None:
            raise Unsupported("the input occurs twice or is a constant")
        if tensor.dtype == "FLOAT32":
            return  # the QUANTIZE that reads it makes it an input of the graph
        self.make_input(index, tensor)

    def make_input(self, index: int, codes: Tensor) -> Activation:
        """Model input `index` as an input of the graph in the quantization of `codes`."""
        tensor = self.model.tensors[index]
        quantization = quantization_of(codes)
        shape = image_shape(tensor)
        name = self.builder.input(
            tensor.name or f"input_{index}",
            shape,
            quantization,
            tensor.shape[1:],
            "NHWC" if len(tensor.shape) > 2 else "NC",
        )
        value = self.values[index] = Activation(Real(name), tensor.shape)
        return value

    def _operator(self, operator: Operator, name: str) -> None:
        handler = HANDLERS.get(operator.kind)
        if handler is None:
            raise Unsupported(_reason(operator))
        outputs = operator.outputs
        several = operator.kind in ("SPLIT", "SPLIT_V")
        if not outputs or (len(outputs) != 1 and not several) or min(outputs) < 0:
            raise Unsupported(f"{len(outputs)} results, not one")
        if len(set(outputs)) != len(outputs) or any(
            output in self.values or self.model.tensors[output].data is not None
            for output in outputs
        ):
            raise Unsupported("its result has another producer")
        made = handler(self, operator, name)
        self.values.update(zip(outputs, made if isinstance(made, tuple) else (made,), strict=True))

    def _output(self, index: int) -> str:
        value = self.values.get(index)
        if value is None:
            raise Unsupported("no operator makes it")
        host = value if isinstance(value, Host) else None
        activation = self._padded(value.source if isinstance(value, Host) else value)
        tensor = activation.real.tensor
        if tensor in self.builder.inputs:
            raise Unsupported("a result is an input of the model")
        shape = activation.shape[1:]
        vector = self.builder.tensors[tensor].shape[:2] == (1, 1) and len(shape) == 1
        self.builder.output(tensor, shape, "NC" if vector else "NHWC")
        if host and host.operator != "dequantize":
            self.builder.host(host.operator, tensor, host.axis)
            self.notes.append(
                f"{self.model.tensors[index].name}: {host.operator} is left to the host; the "
                "graph ends at its input"
            )
        return tensor

    # What the handlers use.

    def activation(self, index: int, padded: bool = False) -> Activation:
        """An operand; raises `Unsupported` if it is no int8 activation made before. Zeros around
        it become a node of the graph unless `padded`."""
        value = self.values.get(index)
        if isinstance(value, Host):
            raise Unsupported(f"its input is made by {value.operator}, which the host computes")
        if value is None:
            what = "left out"
            if index >= 0:
                tensor = self.model.tensors[index]
                what = "a constant" if tensor.data is not None else f"{tensor.dtype.lower()}"
            raise Unsupported(f"its input is {what}, not a quantized activation")
        if any(value.real.padding) and not padded:
            value = self.values[index] = self._padded(value)
        return value

    def _padded(self, value: Activation) -> Activation:
        """With the zeros around it made by a node."""
        tensor, padding = value.real.tensor, value.real.padding
        if not any(padding):
            return value
        channels = self.builder.tensors[tensor].shape[2]
        top, left, bottom, right = padding
        self.spend(channels, made=channels * (top + bottom + 1) * (left + right + 1))
        pending = self.builder.pad(tensor, f"{tensor}_pad", padding)
        made = pending.finish(self.builder.quantizations[tensor])
        return Activation(Real(made), value.shape)

    def result(self, operator: Operator, position: int = 0) -> tuple[Tensor, Quantization]:
        """The result's tensor, int8."""
        tensor = self.model.tensors[operator.outputs[position]]
        if tensor.dtype == "UINT8":
            raise Unsupported("uint8 (the older scheme); quantize the model to int8")
        return tensor, quantization_of(tensor)

    def spend(self, channels: int, weights: int = 0, made: int = 0) -> None:
        """Bounds the work that a small file can ask for, by using a constant many times over or by
        padding and resizing; `made`: weights that it does not hold."""
        self.channels -= channels
        self.weights -= weights
        self.made -= made
        if self.channels < 0 or self.weights < 0:
            raise Unsupported(
                f"more than {MAX_CHANNELS} channels in all, or weights used over and over"
            )
        if self.made < 0:
            raise Unsupported(f"padding or resizing by more than {MAX_MADE} weights in all")


def _reason(operator: Operator) -> str:
    return REASONS.get(operator.kind, "operator not supported")
