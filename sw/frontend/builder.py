# SPDX-License-Identifier: Apache-2.0
"""The graph under construction: its tensors, nodes, names, inputs and outputs."""

from __future__ import annotations

import dataclasses

from ..graph.ir import Graph, HostOperator, Node, TensorSpec
from ..graph.validate import validate
from .names import unique
from .permutations import fold_permutations
from .values import Quantization, Shape, Unsupported


class Collector:
    """Collects tensors and nodes. `layers` are node names kept for the weighted layers.

    `single_precision`: scales are joined as XNNPACK does, in float32, and additions have its 21-bit
    multipliers.
    """

    def __init__(
        self,
        name: str,
        multiplier_bits: int,
        layers: frozenset[str],
        single_precision: bool = False,
    ) -> None:
        self.single_precision = single_precision
        self.name = name
        self.layers = layers
        self.multiplier_bits = multiplier_bits
        self.tensors: dict[str, TensorSpec] = {}
        self.quantizations: dict[str, Quantization] = {}
        self.nodes: list[Node] = []
        self.inputs: list[str] = []
        self.hosts: list[HostOperator] = []
        self.taken: set[str] = set()

    def _input(
        self,
        name: str,
        shape: Shape,
        quantization: Quantization,
        source_shape: tuple[int, ...],
        source_layout: str | None = None,
    ) -> str:
        tensor = self._tensor(name, shape, dataclasses.replace(quantization, low=0, high=255))
        self.output(tensor, source_shape, source_layout)
        self.inputs.append(tensor)
        return tensor

    def _tensor(self, name: str, shape: Shape, quantization: Quantization) -> str:
        name = unique(name, set(self.tensors))
        self.tensors[name] = TensorSpec(
            name,
            shape,
            quantization.scale,
            quantization.zero_point,
            quantization.source_dtype,
        )
        self.quantizations[name] = quantization
        return name

    def _output(self, name: str, shape: Shape, quantization: Quantization) -> tuple[str, str]:
        """Names of a new node and of its output tensor; layers keep theirs."""
        node = unique(name, self.taken if name in self.layers else self.taken | self.layers)
        self.taken.add(node)
        return node, self._tensor(node, shape, quantization)

    def output(
        self, tensor: str, source_shape: tuple[int, ...], source_layout: str | None = None
    ) -> None:
        """Note the source model's shape of a graph input or output. The layout says how to get
        there from (height, width, channels): `NCHW`, channels first, then any reshape (`NC` where
        there is one pixel); `NHWC`, a mere reshape. By default that of three dimensions is NCHW,
        of one NC."""
        self.tensors[tensor] = dataclasses.replace(
            self.tensors[tensor],
            source_shape=source_shape,
            source_layout=source_layout or ("NCHW" if len(source_shape) > 1 else "NC"),
        )

    def host(self, operator: str, tensor: str, axis: int = -1, name: str = "") -> None:
        """Have the host apply `softmax`, `log_softmax` or `argmax` to the graph output `tensor`,
        along `axis` of its shape in the source model, batch dimension included."""
        if any(host.input == tensor for host in self.hosts):
            raise Unsupported(f"a second host operator on {tensor}")
        self.hosts.append(HostOperator(name or f"{tensor}_{operator}", operator, tensor, axis))

    def build(self, outputs: tuple[str, ...]) -> Graph:
        """The validated graph, without nodes that no output needs."""
        needed = set(outputs)
        kept: list[Node] = []
        for node in reversed(self.nodes):
            if node.output in needed:
                kept.append(node)
                needed.update(node.inputs)
        graph = Graph(
            self.name,
            {name: spec for name, spec in self.tensors.items() if name in needed},
            tuple(reversed(kept)),
            tuple(name for name in self.inputs if name in needed),
            outputs,
            self.multiplier_bits,
            tuple(self.hosts),
        )
        graph = fold_permutations(graph)
        validate(graph)
        return graph
