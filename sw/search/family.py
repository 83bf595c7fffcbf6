# SPDX-License-Identifier: Apache-2.0
"""One network at every width: its uniform graphs, any mixture of them, and what widths cost."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.export import ExportedProgram

from ..errors import SearchError
from ..frontend.torch_export import import_program
from ..graph.ir import Graph
from ..graph.serialize import from_bytes, to_bytes
from ..quantize import ActivationRanges, calibrate, quantize
from .memo import Memo, canonical, key, program_digest
from .problem import Choice, Losses, Progress
from .sensitivity import mix, weighted
from .work import Shared

ACTIVATION_BITS = 8

NAME = "network"
"""Of its graphs: a part of every program, so the same for all."""


@dataclass(frozen=True, eq=False)
class Family:
    """A float network, quantized uniformly at each width over the same activation ranges."""

    program: ExportedProgram
    """The float network."""
    x: NDArray[np.float32]
    """The images that calibrate."""
    ranges: ActivationRanges
    graphs: Mapping[int, Graph]
    """By width."""
    options: Mapping[str, Any]
    """Further keywords of `quantize`."""

    @classmethod
    def of(
        cls,
        program: ExportedProgram,
        x: NDArray[np.float32],
        widths: tuple[int, ...],
        multiplier_bits: int,
        memo: Memo,
        progress: Progress,
        options: Mapping[str, Any],
    ) -> Family:
        """Calibrates and quantizes, unless `memo` has the same done. Raises `FrontendError`,
        `DataError`, and `SearchError` for graphs of several inputs or outputs."""
        parts = (program_digest(program), x.tobytes(), multiplier_bits, canonical(options))
        known = memo.result(calibrated := key("ranges", *parts))
        if known is None:
            progress("calibrating")
            method = {name: options[name] for name in ("method",) if name in options}
            ranges = calibrate(program, x, **method)
            memo.keep(calibrated, "ranges", canonical(ranges.ranges).encode())
        else:
            found = json.loads(known)
            ranges = ActivationRanges({name: (low, high) for name, (low, high) in found.items()})
        graphs: dict[int, Graph] = {}
        for width in widths:
            known = memo.result(quantized := key("graph", width, *parts))
            if known is None:
                progress(f"quantizing to {width} bits")
                whole = quantize(program, x, width, ranges=ranges, **options)
                graphs[width] = import_program(whole, NAME, multiplier_bits)
                memo.keep(quantized, "graph", to_bytes(graphs[width]))
            else:
                graphs[width] = from_bytes(known)
        family = cls(program, x, ranges, graphs, options)
        if len(family.widest.inputs) != 1 or len(family.widest.outputs) != 1:
            raise SearchError(
                f"the search takes networks of one input and one output, not "
                f"{len(family.widest.inputs)} and {len(family.widest.outputs)}"
            )
        if not family.layers:
            raise SearchError("the network has no layer with weights: there is nothing to choose")
        return family

    @property
    def widest(self) -> Graph:
        return self.graphs[max(self.graphs)]

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers with a width to choose, in execution order."""
        return tuple(node.name for node in weighted(self.widest))

    def uniform(self, width: int) -> Choice:
        return dict.fromkeys(self.layers, width)

    def mixed(self, choice: Choice) -> Graph:
        """The network with these widths."""
        return mix(self.graphs, choice)

    def quantized(self, choice: Choice) -> ExportedProgram:
        """The same as a PT2E program."""
        return quantize(self.program, self.x, choice, ranges=self.ranges, **self.options)

    def imported(self, program: ExportedProgram) -> Graph:
        """The graph of a quantized program of this family."""
        return import_program(program, NAME, self.widest.multiplier_bits)

    @cached_property
    def macs(self) -> dict[str, int]:
        """Multiply-accumulates of each layer, padded taps counted."""
        found = {}
        for node in weighted(self.widest):
            height, width, _ = self.widest.tensors[node.output].shape
            found[node.name] = height * width * node.weights.size
        return found

    @cached_property
    def weight_bytes(self) -> Losses:
        """By layer and width: bytes of its weights, each row of an output channel whole."""
        return {
            node.name: {
                width: node.weights.shape[0] * math.ceil(node.weights[0].size * width / 8)
                for width in self.graphs
            }
            for node in weighted(self.widest)
        }

    @cached_property
    def bit_operations(self) -> Losses:
        """By layer and width: multiply-accumulates times weight bits times activation bits, the
        usual stand-in for latency (BitOps; HAWQ-V3, Yao et al., ICML 2021)."""
        return {
            name: {width: count * width * ACTIVATION_BITS for width in self.graphs}
            for name, count in self.macs.items()
        }


def shared(content: bytes) -> Shared:
    """Bytes that many calls need, named by their hash."""
    return Shared(content, hashlib.sha256(content).hexdigest())
