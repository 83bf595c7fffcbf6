# SPDX-License-Identifier: Apache-2.0
"""Nodes that move values and keep their codes: slices, concatenation, padding, upsampling.

Movement commutes with quantization, so an operand may be a tensor of the graph or still pending; a
tensor on another scale than the result's is rescaled first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..graph.ir import Concat, Conv, Requantization, Reshape, Slice
from .pointwise import Pointwise
from .values import Padding, Pending, Quantization, Real, Shape, Unsupported

Operand = str | Real | Pending
"""A tensor of the graph by name or value, or what becomes one."""


class Moves(Pointwise):
    """Movement of values."""

    def slice(
        self,
        source: Operand,
        name: str,
        start: tuple[int, int, int],
        step: tuple[int, int, int],
        shape: Shape,
    ) -> Pending:
        """Every `step`-th row, column and channel from `start` on, `shape` in all."""

        def place(tensor: str, quantization: Quantization) -> str:
            if self.tensors[tensor].shape == shape:
                return tensor
            node, output = self._output(name, shape, quantization)
            self.nodes.append(Slice(node, (tensor,), output, start=start, step=step))
            return output

        return self._moved(source, name, place)

    def reshape(self, source: Operand, name: str, shape: Shape) -> Pending:
        """The same codes in the same order (height, width, channels), channels innermost."""

        def place(tensor: str, quantization: Quantization) -> str:
            if self.tensors[tensor].shape == shape:
                return tensor
            node, output = self._output(name, shape, quantization)
            self.nodes.append(Reshape(node, (tensor,), output))
            return output

        return self._moved(source, name, place)

    def concat(self, parts: Sequence[Operand], name: str) -> Pending:
        """`parts` one after the other along the channels, on the result's scale. Equal heights and
        widths are checked when the graph is built."""
        operands = [self._operand(part) for part in parts]

        def emit(quantization: Quantization) -> str:
            tensors = [
                self.maximum(part, f"{name}_part{i}").finish(quantization)
                for i, part in enumerate(operands)
            ]
            shapes = [self.tensors[tensor].shape for tensor in tensors]
            if len(tensors) == 1:
                return tensors[0]
            if len({shape[:2] for shape in shapes}) != 1:
                raise Unsupported(f"concatenation of {shapes}: height or width differ")
            channels = sum(shape[2] for shape in shapes)
            node, output = self._output(name, (*shapes[0][:2], channels), quantization)
            self.nodes.append(Concat(node, tuple(tensors), output))
            return output

        return Pending(emit)

    def gather(
        self,
        source: Operand,
        name: str,
        channels: Sequence[int | None],
        *,
        start: tuple[int, int] = (0, 0),
        stride: tuple[int, int] = (1, 1),
        size: tuple[int, int] | None = None,
        fill: float = 0.0,
    ) -> Pending:
        """A tensor whose channel i is the source's `channels[i]`, of every `stride`-th row and
        column from `start` on, `size` in all (by default as many as there are); channels that are
        None hold the real value `fill` throughout. A 1x1 convolution of zeros and ones."""

        def place(tensor: str, quantization: Quantization) -> str:
            height, width, depth = self.tensors[tensor].shape
            if list(channels) == list(range(depth)) and stride == (1, 1) and size is None:
                return tensor
            rows, columns = size or (
                -(-(height - start[0]) // stride[0]), -(-(width - start[1]) // stride[1]),
            )  # fmt: skip
            steps = stride
            if start != (0, 0) or (rows, columns) != (
                -(-height // stride[0]),
                -(-width // stride[1]),
            ):
                part = self.slice(
                    tensor, f"{name}_slice", (*start, 0), (*stride, 1), (rows, columns, depth)
                )
                tensor, steps = part.finish(quantization), (1, 1)
            codes = np.zeros((len(channels), 1, 1, depth), np.int8)
            constants = np.zeros(len(channels), np.int64)
            for i, channel in enumerate(channels):
                if channel is None:
                    constants[i] = quantization.code(fill)
                else:
                    codes[i, 0, 0, channel] = 1
            return self._copy(
                tensor, name, "gather", quantization, codes, constants,
                (rows, columns, len(channels)), stride=steps,
            )  # fmt: skip

        return self._moved(source, name, place, fills=None in channels)

    def pad(self, source: Operand, name: str, padding: Padding) -> Pending:
        """Real zeros around the image, for operators that cannot pad themselves: a depthwise
        convolution that picks one pixel."""
        top, left, bottom, right = padding
        rows, columns = top + bottom, left + right

        def place(tensor: str, quantization: Quantization) -> str:
            if not any(padding):
                return tensor
            height, width, depth = self.tensors[tensor].shape
            codes = np.zeros((depth, rows + 1, columns + 1, 1), np.int8)
            codes[:, bottom, right] = 1
            return self._copy(
                tensor, name, "pad", quantization, codes, np.zeros(depth, np.int64),
                (height + rows, width + columns, depth),
                padding=(rows, columns, rows, columns), groups=depth,
                limits=(quantization.low, quantization.high),
            )  # fmt: skip

        return self._moved(source, name, place, fills=True)

    def upsample_nearest(self, source: Operand, name: str, factor: tuple[int, int]) -> Pending:
        """Every row and column repeated `factor` times: a transposed depthwise convolution by
        ones."""
        if min(factor) < 1:
            raise Unsupported(f"upsampling by {factor}")

        def place(tensor: str, quantization: Quantization) -> str:
            height, width, depth = self.tensors[tensor].shape
            if factor == (1, 1):
                return tensor
            rows, columns = factor
            return self._copy(
                tensor, name, "upsample", quantization, np.ones((depth, rows, columns, 1), np.int8),
                np.zeros(depth, np.int64), (height * rows, width * columns, depth), groups=depth,
                padding=(rows - 1, columns - 1, rows - 1, columns - 1), input_dilation=factor,
            )  # fmt: skip

        return self._moved(source, name, place)

    def permute_vector(self, source: Operand, name: str, shape: Shape) -> Pending:
        """A vector in the order (channels, height, width) as an image of `shape`. The layer that
        makes the vector makes it in the graph's order where nobody else reads it; otherwise a
        linear layer of zeros and ones does."""
        height, width, depth = shape
        order = np.arange(math.prod(shape)).reshape(depth, height, width).transpose(1, 2, 0)
        gathered = self.gather(source, f"{name}_order", order.reshape(-1).tolist())
        return self.reshape(gathered, name, shape)

    def _copy(
        self,
        tensor: str,
        name: str,
        operator: str,
        quantization: Quantization,
        codes: NDArray[np.int8],
        constants: NDArray[np.int64],
        shape: Shape,
        *,
        stride: tuple[int, int] = (1, 1),
        padding: Padding = (0, 0, 0, 0),
        groups: int = 1,
        input_dilation: tuple[int, int] = (1, 1),
        limits: tuple[int, int] = (0, 255),
    ) -> str:
        """A convolution of weights 0 and 1 that copies codes; channels without weights get the
        code in `constants`."""
        channels = codes.shape[0]
        sums = codes.reshape(channels, -1).astype(np.int64).sum(1)
        shift = self.multiplier_bits - 1
        # sum(q w) = q + (taps - 1) * zero_point where all but one of the taps are padding.
        offset = np.where(
            sums > 0, -(sums - 1) * quantization.zero_point, constants.astype(np.int64)
        )
        node, output = self._output(name, shape, quantization)
        self.nodes.append(
            Conv(
                node, (tensor,), output, weights=codes, bits=8 if groups > 1 else 2,
                requant=Requantization(
                    multiplier=np.full(channels, 1 << shift, np.int64),
                    constant=offset << shift,
                    shift=np.full(channels, shift, np.int64),
                    low=limits[0], high=limits[1],
                ),
                stride=stride, padding=padding, groups=groups, input_dilation=input_dilation,
                operator=operator,
            )
        )  # fmt: skip
        return output

    def _operand(self, value: Operand) -> str | Pending:
        if isinstance(value, Real):
            if any(value.padding):
                return self.pad(value.tensor, f"{value.tensor}_pad", value.padding)
            return value.tensor
        return value

    def _moved(
        self,
        source: Operand,
        name: str,
        place: Callable[[str, Quantization], str],
        fills: bool = False,
    ) -> Pending:
        """`place` puts a tensor's values where they belong, and with `fills` values of its own
        beside them, which earlier clamps do not touch and later ones do."""
        operand = self._operand(source)
        if fills and isinstance(operand, Pending) and operand.source is not None:
            operand = self.exact(operand, "input").tensor
        low, high, known = -math.inf, math.inf, operand if isinstance(operand, str) else None
        if isinstance(operand, Pending) and not fills:
            low, high, known = operand.low, operand.high, operand.source

        def emit(quantization: Quantization) -> str:
            tensor = self.maximum(operand, f"{name}_input").finish(quantization)
            return place(tensor, quantization if fills else self.quantizations[tensor])

        return Pending(emit, low, high, known)
