# SPDX-License-Identifier: Apache-2.0
"""What sensitivities are computed from, and what each of them is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch.export import ExportedProgram

from ...codes import encode
from ...errors import SearchError
from ...frontend.torch_export import import_program
from ...graph.ir import Graph
from ...programs import run_program
from ...quantize import calibrate, quantize
from ..problem import Losses, Progress
from .evaluation import variant_outputs, weighted

IMAGES = 256
"""Images that rank, at most: more change the ranking no further."""


_KEPT_BYTES = 1 << 26


def quiet(message: str) -> None:
    """Shows no progress."""


@dataclass(frozen=True, eq=False)
class Context:
    """One network and the images that it is ranked on."""

    program: ExportedProgram
    """The float network."""
    graphs: Mapping[int, Graph]
    """It quantized uniformly, by width, over the same activation ranges (see `mix`)."""
    x: NDArray[np.float32]
    """Images, (images, ...), as the float network takes them."""
    codes: Mapping[str, NDArray[np.uint8]]
    """The same as inputs of the graphs."""
    reference: NDArray[np.float32]
    """What the float network makes of them, (images, ...), before softmax or argmax: what the
    graphs' outputs stand for."""
    labels: NDArray[np.int64] | None = None
    """Classes, (images,)."""
    seed: int = 0
    progress: Progress = quiet
    _single: dict[tuple[int, int], NDArray[np.float32]] = field(
        default_factory=dict, init=False, repr=False
    )
    """Outputs kept by `single_outputs`, by first image and variant."""

    @classmethod
    def of(
        cls,
        program: ExportedProgram,
        graphs: Mapping[int, Graph],
        x: NDArray[np.float32],
        labels: NDArray[np.int64] | None = None,
        *,
        seed: int = 0,
        progress: Progress = quiet,
    ) -> Context:
        """Encodes `x` and runs the float network on it. Raises `SearchError` for networks of
        several inputs or outputs, `DataError` for images of another shape."""
        widest = graphs[max(graphs)]
        if len(widest.inputs) != 1 or len(widest.outputs) != 1:
            raise SearchError(
                f"the search takes networks of one input and one output, not "
                f"{len(widest.inputs)} and {len(widest.outputs)}"
            )
        codes = {widest.inputs[0]: encode(widest.tensors[widest.inputs[0]], x)}
        reference = run_program(program, x, logits=True)
        return cls(program, graphs, x, codes, reference, labels, seed, progress)

    @property
    def widest(self) -> int:
        return max(self.graphs)

    @property
    def narrower(self) -> tuple[int, ...]:
        """All widths but the widest, in falling order."""
        return tuple(sorted(self.graphs, reverse=True)[1:])

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers with a width to choose, in execution order."""
        return tuple(node.name for node in weighted(self.graphs[self.widest]))

    @property
    def single(self) -> tuple[dict[str, int], ...]:
        """The widest network, then every one that has one layer at one narrower width."""
        narrower = ({layer: width} for layer in self.layers for width in self.narrower)
        return ({}, *narrower)

    def outputs_of(
        self, variants: Sequence[Mapping[str, int]]
    ) -> Iterator[tuple[slice, int, NDArray[np.float32]]]:
        """As `variant_outputs`, on the context's images, saying each variant that has run."""
        for images, index, found in variant_outputs(self.graphs, self.codes, variants):
            self.progress(f"network {index + 1} of {len(variants)}, images from {images.start}")
            yield images, index, found

    def single_outputs(self) -> Iterator[tuple[slice, int, NDArray[np.float32]]]:
        """As `variant_outputs` of `single`, saying each layer that is done. Where outputs are small
        they are kept: several methods look at them, and running the networks is most of the work.
        """
        keep = len(self.single) * self.reference.nbytes <= _KEPT_BYTES
        if self._single:
            for (start, index), found in self._single.items():
                yield slice(start, start + len(found)), index, found
            return
        kept = {}
        for images, index, found in variant_outputs(self.graphs, self.codes, self.single):
            if keep:
                kept[images.start, index] = found
            for layer, width in self.single[index].items():
                if width == self.narrower[-1]:
                    self.progress(f"sensitivity of {layer}")
            yield images, index, found
        self._single.update(kept)


@dataclass(frozen=True)
class Sensitivity:
    """A method that says what each layer loses at each width. Called, it gives losses by layer and
    width: 0 at the widest, never smaller for a narrower width, of every layer of the context.

    Losses of one method add up and compare with one another; they have its own unit.
    """

    name: str
    summary: str
    """One line, for lists."""
    measure: Callable[[Context], Mapping[str, Mapping[int, float]]]
    """By layer, the loss of narrower widths over the widest's, noise and all."""
    needs_labels: bool = False

    def __call__(self, context: Context) -> Losses:
        """Raises `SearchError` where labels are missing that the method needs."""
        if self.needs_labels and context.labels is None:
            raise SearchError(f"sensitivity {self.name!r} needs labels: give data with y")
        found = self.measure(context)
        return {layer: monotone({**found[layer], context.widest: 0.0}) for layer in context.layers}


def uniform_graphs(
    program: ExportedProgram,
    x: NDArray[np.float32],
    widths: Iterable[int],
    multiplier_bits: int = 16,
) -> dict[int, Graph]:
    """The float network quantized at each of `widths`, 2 to 8, calibrated on `x`. Raises
    `FrontendError` or `DataError`."""
    ranges = calibrate(program, x)
    return {
        width: import_program(
            quantize(program, x, width, ranges=ranges), "network", multiplier_bits
        )
        for width in widths
    }


def monotone(losses: Mapping[int, float]) -> dict[int, float]:
    """The losses by width, raised where a narrower width seems to lose less than a wider one:
    that is noise of a finite data set, and a solver would pay accuracy for it."""
    result: dict[int, float] = {}
    worst = 0.0
    for width in sorted(losses, reverse=True):
        worst = max(worst, losses[width])
        result[width] = worst
    return result
