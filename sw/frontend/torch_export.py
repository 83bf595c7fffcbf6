# SPDX-License-Identifier: Apache-2.0
"""Front end for `torch.export` programs quantized with PT2E (torchao's convert_pt2e).

Weights are symmetric, per output channel or per tensor, of 2 to 8 bits (read from the quantize
operators' limits); activations are uint8 or int8, per tensor. Biases stay real:
B = round(bias / s_out * 2^S).
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.fx import Node

from ..errors import BitloopError, FrontendError
from ..graph.ir import Graph
from . import program as ops
from .archive import safe_archive
from .lowering import GraphBuilder, Pending, Quantization, Real, Unsupported, Weight
from .movement import Places, place, straight
from .operators import HANDLERS
from .program import arguments, is_quantized, layer_names, value_shape
from .torch_movement import input_places
from .torch_values import Codes, Host, Input, image_shape

__all__ = ["import_program", "is_quantized", "layer_names", "load_program"]


def load_program(path: str | Path) -> ExportedProgram:
    """The program in the .pt2 file at `path`, without running anything the file holds.

    Guards and sample inputs are not loaded. Raises `FrontendError` for a missing, damaged or
    foreign file and for contents that would have to be unpickled.
    """
    from torch.export.pt2_archive._package import load_pt2

    archive = safe_archive(Path(path))
    logger = logging.getLogger("torch.export")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        programs = load_pt2(archive).exported_programs
        return programs["model"]
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FrontendError(
            f"{path}: PyTorch {torch.__version__} cannot load it ({reason}); export it again with "
            "this version"
        ) from None
    finally:
        logger.setLevel(level)


def import_program(program: ExportedProgram, name: str, multiplier_bits: int = 16) -> Graph:
    """The integer graph of a PT2E-quantized program.

    Raises `FrontendError` for a float program, and listing every operator that is not supported.
    """
    if not is_quantized(program):
        raise FrontendError(
            f"{name}: the program is not quantized; run `bitloop quantize` on it first"
        )
    importer = _Importer(program, name, multiplier_bits)
    try:
        return importer.run()
    except FrontendError:
        raise
    except BitloopError as error:
        raise FrontendError(f"{name}: {error}") from error


_LARGEST_CONSTANT = 1 << 24
"""Values of a constant that a program may create."""

_UNKNOWN = object()
"""Value of an operator already reported; its consumers are not reported again."""


class _Importer:
    """Walks the program once, keeping a value for every node."""

    def __init__(self, program: ExportedProgram, name: str, multiplier_bits: int) -> None:
        self.program = program
        self.name = name
        self.values: dict[Node, Any] = {}
        self.moved: dict[Node, Places] = {}
        self.images: dict[tuple[Node, bool], Real | Pending] = {}
        self.batch = 2
        self.problems: list[str] = []
        self.layers = ops.weighted_layers(program.graph.nodes)
        self.builder = GraphBuilder(name, multiplier_bits, frozenset(self.layers.values()))

    def run(self) -> Graph:
        tensors = ops.constants(self.program)
        outputs: tuple[str, ...] = ()
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                tensor = tensors.get(node.name)
                self.values[node] = self._input(node) if tensor is None else tensor
            elif node.op == "call_function":
                self.values[node] = self._guard(node, self._call)
            elif node.op == "output":
                outputs = self._guard(node, self._outputs)
            else:
                self._report(node, f"{node.op} is not supported")
        if self.problems:
            listed = "\n  ".join(self.problems)
            raise FrontendError(f"{self.name}: cannot be turned into integers:\n  {listed}")
        return self.builder.build(outputs)

    def _input(self, node: Node) -> Input:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and value.ndim and isinstance(value.shape[0], int):
            self.batch = value.shape[0]
        last = input_places(node)
        if last is not None:
            self.moved[node] = last
        return Input(node, last is not None)

    def _report(self, node: Node, why: str) -> None:
        operator = ops.operator_name(node) if node.op == "call_function" else node.op
        self.problems.append(f"{node.name} ({operator}): {why}")

    def _guard(self, node: Node, step: Callable[[Node], Any]) -> Any:
        """`step(node)`, with what it cannot do reported."""
        if any(self.values.get(n) is _UNKNOWN for n in node.all_input_nodes):
            return _UNKNOWN
        try:
            return step(node)
        except (Unsupported, BitloopError) as error:
            self._report(node, str(error))
            return _UNKNOWN

    def _call(self, node: Node) -> Any:
        inputs = [self.values[n] for n in node.all_input_nodes]
        if node.target == torch.ops.aten.sym_size.int:
            return self._size(node)
        if node.target in ops.CREATIONS and math.prod(value_shape(node)) > _LARGEST_CONSTANT:
            raise Unsupported(f"a constant of shape {value_shape(node)}")
        if node.target in ops.CREATIONS or (
            inputs and all(isinstance(value, torch.Tensor | Weight | int) for value in inputs)
        ):
            return self._constant(node)
        handler = HANDLERS.get(node.target)
        operator = ops.operator_name(node)
        if handler is None:
            raise Unsupported(ops.REASONS.get(operator, "operator not supported"))
        value = handler(self, node, arguments(node))
        if operator.endswith("_"):
            changed = node.all_input_nodes[0]
            self.values[changed] = value
            self.moved.pop(changed, None)
            if node in self.moved:
                self.moved[changed] = self.moved[node]
        return value

    def _size(self, node: Node) -> int:
        values = arguments(node)
        sizes = values["self"].meta["val"].shape
        size = sizes[int(values["dim"])]
        return int(size) if isinstance(size, int) else self.batch

    def _constant(self, node: Node) -> Any:
        """Fold an operator whose operands are all constants."""
        values = arguments(node)
        if node.target in ops.DEQUANTIZES or node.target == ops.DEQUANTIZE_CHANNELS:
            codes = self.values[values["input"]]
            if isinstance(codes, torch.Tensor) and codes.ndim > 1:
                return self._weight(values, codes)

        def known(n: Node) -> Any:
            value = self.values[n]
            if isinstance(value, Weight):
                raise Unsupported("arithmetic on quantized weights")
            return value

        args = torch.fx.node.map_arg(node.args, known)
        kwargs = torch.fx.node.map_arg(node.kwargs, known)
        return node.target(*args, **kwargs)  # type: ignore[operator]

    def _weight(self, values: dict[str, Any], codes: torch.Tensor) -> Weight:
        per_channel = "scales" in values
        scale = self._number(values["scales" if per_channel else "scale"])
        zero = values.get("zero_points") if per_channel else values["zero_point"]
        zero_point = np.zeros(1) if zero is None else self._number(zero)
        axis = int(values.get("axis", 0)) if per_channel else 0
        if axis not in (0, 1):
            raise Unsupported(f"weight scales along axis {axis}; only output channels")
        if np.unique(zero_point).size != 1:
            raise Unsupported("weight zero-points differ between channels")
        shift = int(zero_point.flat[0])
        low, high = int(values["quant_min"]) - shift, int(values["quant_max"]) - shift
        bits = next((b for b in (2, 4, 8) if -(1 << (b - 1)) <= low and high < 1 << (b - 1)), None)
        if bits is None:
            raise Unsupported(f"weight codes {low}..{high} need more than 8 bits")
        array = codes.numpy().astype(np.int64) - shift
        if array.min() < low or array.max() > high:
            raise Unsupported(f"weight codes exceed their limits {low}..{high}")
        scales = np.broadcast_to(scale, array.shape[axis]).astype(np.float64)
        return Weight(array, scales, bits, axis)

    def _number(self, value: Any) -> np.ndarray:
        """A quantization parameter, given as a number or as a constant tensor."""
        if isinstance(value, Node):
            value = self.values[value]
        if isinstance(value, torch.Tensor):
            value = value.numpy()
        return np.atleast_1d(np.asarray(value, dtype=np.float64))

    def quantization(self, values: dict[str, Any]) -> Quantization:
        dtype = values["dtype"]
        low, high = int(values["quant_min"]), int(values["quant_max"])
        zero_point = int(self._number(values["zero_point"])[0])
        offset = {torch.uint8: 0, torch.int8: 128}.get(dtype)
        if offset is None or not 0 <= low + offset <= high + offset <= 255:
            raise Unsupported(f"activation codes {low}..{high} of {dtype}; only uint8 and int8")
        return Quantization(
            float(self._number(values["scale"])[0]),
            zero_point + offset,
            low + offset,
            high + offset,
            "int8" if offset else "uint8",
        )

    def _outputs(self, node: Node) -> tuple[str, ...]:
        tensors = []
        for source in node.all_input_nodes:
            host = self.values[source]
            if isinstance(host, Host):
                tensor = self._output(host.source)
                self.builder.host(host.operator, tensor, host.axis, source.name)
            else:
                tensor = self._output(source)
            tensors.append(tensor)
        if len(set(tensors)) != len(tensors) or set(tensors) & set(self.builder.inputs):
            raise Unsupported("a result is another result or an input of the model")
        return tuple(tensors)

    def _output(self, source: Node) -> str:
        """The tensor of a result; whatever order PyTorch has it in, the host puts it in."""
        value, places = self.values[source], self.moved.get(source)
        layout = None
        if places is not None:
            flat = places.indices.reshape(-1)
            layouts = {"NCHW": straight(places.shape), "NHWC": straight(places.shape, False)}
            layout = next(
                (n for n, s in layouts.items() if np.array_equal(s.indices.reshape(-1), flat)), None
            )
        if places is not None and layout is None:
            tensor = self.real(source, "result").tensor
        elif isinstance(value, Codes):
            tensor = value.tensor
        else:
            tensor = self.exact(source, "result").tensor
        one_pixel = self.builder.tensors[tensor].shape[:2] == (1, 1)
        shape = value_shape(source)
        self.builder.output(tensor, shape, "NC" if one_pixel and len(shape) == 1 else layout)
        return tensor

    def activation(self, node: Node, purpose: str = "input") -> Real | Pending:
        value = self.values[node]
        if isinstance(value, Codes) and purpose == "result":
            return Real(value.tensor)
        if isinstance(value, Host):
            raise Unsupported(f"its {purpose} {node.name} runs on the host: only at the end")
        if isinstance(value, Real | Pending):
            return value
        raise Unsupported(f"its {purpose} {node.name} is not quantized")

    def places(self, node: Node) -> Places:
        """Where the values of an activation are."""
        if node in self.moved:
            return self.moved[node]
        return straight(image_shape(node)).reshaped(value_shape(node))

    def exact(self, node: Node, purpose: str = "input") -> Real:
        """An operand as a tensor of the graph, not moved yet."""
        value = self.builder.exact(self.activation(node, purpose), purpose)
        if not isinstance(self.values[node], Codes):
            self.values[node] = value
        return value

    def flowing(self, node: Node, purpose: str = "input", last: bool = False) -> Real | Pending:
        """An operand as an image, channels first, or with `last` channels last."""
        value = self.activation(node, purpose)
        if not last and node not in self.moved:
            return value
        if (node, last) not in self.images:
            places = self.places(node)
            if last:
                places = dataclasses.replace(places, indices=np.moveaxis(places.indices, -1, 0))
            source = value.tensor if isinstance(value, Real) else value
            name = ops.node_path(node, node.name)
            self.images[node, last] = place(self.builder, source, places, name)
        return self.images[node, last]

    def real(
        self, node: Node, purpose: str = "input", padded: bool = False, last: bool = False
    ) -> Real:
        """An operand as a tensor of the graph, in order."""
        if not last and node not in self.moved:
            return self.exact(node, purpose)
        self.check_fill(node, purpose)
        value = self.builder.exact(self.flowing(node, purpose, last), purpose)
        if any(value.padding) and not padded:
            name = f"{ops.node_path(node, node.name)}_pad"
            padding = self.builder.pad(value.tensor, name, value.padding)
            value = self.builder.exact(padding, purpose)
        if not any(value.padding):
            self.images[node, last] = value
        return value

    def check_fill(self, node: Node, purpose: str = "input") -> None:
        """Raises `Unsupported` where constants beside an activation's values are no codes."""
        places, value = self.moved.get(node), self.values[node]
        if places is None or not places.fill or not places.filled:
            return
        tensor = value.tensor if isinstance(value, Real) else getattr(value, "source", None)
        if tensor is None or not self.builder.quantizations[tensor].exact(places.fill):
            raise Unsupported(f"its {purpose} is padded with a value that is no code: quantize it")

    def node_name(self, node: Node) -> str:
        return self.layers.get(node) or ops.node_path(node, node.name)
