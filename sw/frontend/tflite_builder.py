# SPDX-License-Identifier: Apache-2.0
"""The graph builder with what LiteRT's integer kernels need: any function of one code."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..graph.ir import Conv, Requantization, Table
from .lowering import GraphBuilder, Pending, Quantization
from .tflite_affine import fit

Tables = Callable[[Quantization], NDArray[np.uint8]]
"""For a result's quantization, its codes by input code: (256,), or (channels, 256)."""
Slopes = Callable[[Quantization], NDArray[np.float64] | float]
"""For a result's quantization, its steps a step of the input: one, or one a channel."""


class CodeBuilder(GraphBuilder):
    """Makes nodes that compute given codes from codes."""

    def __init__(
        self,
        name: str,
        multiplier_bits: int,
        layers: frozenset[str],
        single_precision: bool = False,
    ) -> None:
        super().__init__(name, multiplier_bits, layers, single_precision)
        self.inexact: dict[str, tuple[int, int]] = {}
        """By name, channels that no line meets, and the most codes of one that are one off."""

    def codes(
        self, source: str, name: str, label: str, tables: Tables, slopes: Slopes | None = None
    ) -> Pending:
        """The function of each code of the tensor `source` that `tables` gives: where it is a
        line, of `slopes`, a depthwise 1x1 convolution, else a table.

        Where channels have functions of their own, codes whose step no line meets are one off:
        `inexact` counts them.
        """
        own, shape = self.quantizations[source], self.tensors[source].shape

        def emit(quantization: Quantization) -> str:
            wanted = np.atleast_2d(tables(quantization))
            wanted = np.clip(wanted, quantization.low, quantization.high).astype(np.uint8)
            if slopes is not None:
                signs = np.broadcast_to(slopes(quantization), wanted.shape[:1]).astype(np.float64)
                requant, wrong = fit(
                    wanted, signs, origin=own.zero_point, zero_point=quantization.zero_point,
                    low=int(wanted.min()), high=int(wanted.max()),
                    multiplier_bits=self.multiplier_bits,
                )  # fmt: skip
                if wanted.shape[0] > 1 or not wrong.any():
                    if wrong.any():
                        self.inexact[name] = int((wrong > 0).sum()), int(wrong.max())
                    return self._line(source, name, quantization, requant, signs < 0)
            node, output = self._output(name, shape, quantization)
            self.nodes.append(Table(node, (source,), output, table=wanted[0], function=label))
            return output

        return Pending(emit)

    def _line(
        self,
        source: str,
        name: str,
        quantization: Quantization,
        requant: Requantization,
        negative: NDArray[np.bool_],
    ) -> str:
        shape = self.tensors[source].shape
        channels = shape[2]
        signs = np.broadcast_to(np.where(negative, -1, 1), channels).astype(np.int8)
        multiplier, constant, shift = (
            np.ascontiguousarray(np.broadcast_to(values, channels))
            for values in (requant.multiplier, requant.constant, requant.shift)
        )
        node, output = self._output(name, shape, quantization)
        self.nodes.append(
            Conv(node, (source,), output, weights=signs.reshape(-1, 1, 1, 1), bits=8,
                 requant=dataclasses.replace(
                     requant, multiplier=multiplier, constant=constant, shift=shift
                 ),
                 groups=channels,
                 operator="depthwise" if channels > 1 else "conv")
        )  # fmt: skip
        return output
