# SPDX-License-Identifier: Apache-2.0
"""Accuracy and divergence of integer networks, by the golden model, in parts that run anywhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.export import ExportedProgram

from ..codes import encode
from ..dataset import Dataset
from ..errors import DataError
from ..graph.ir import Graph
from ..graph.serialize import to_bytes
from ..programs import run_program
from .family import shared
from .memo import Memo, key
from .sensitivity import divergence
from .tasks import pack_images, run_images
from .work import Shared, Work

PART = 250
"""Images in a part: a second's work or so, and a megabyte to send."""


@dataclass(frozen=True)
class Score:
    accuracy: float | None
    """Fraction of the images whose largest output is their label; None without labels."""
    divergence: float
    """From the float network's outputs, in nats a image for classifiers (see `divergence`)."""


class Scorer:
    """Scores graphs of one family on one set of images, each graph once."""

    def __init__(
        self, program: ExportedProgram, graph: Graph, data: Dataset, work: Work, memo: Memo
    ) -> None:
        """`graph`: any of the family. Raises `DataError` for images that do not suit the network,
        or labels beyond its classes."""
        self.work, self.memo, self.labels = work, memo, data.y
        self.images = len(data)
        name = graph.inputs[0]
        self._codes: NDArray[np.uint8] = encode(graph.tensors[name], data.x)
        self.reference = run_program(program, data.x, logits=True)
        if data.y is not None:
            check_labels(data.y, int(np.prod(self.reference.shape[1:])))
        self.accuracy_float = self._accuracy(self.reference)
        content = [self._codes.tobytes(), self.reference.tobytes()]
        content += [] if data.y is None else [data.y.tobytes()]
        self._digest = hashlib.sha256(b"".join(content)).hexdigest()
        self._parts: list[Shared] = []
        self._scores: dict[str, Score] = {}

    @property
    def parts(self) -> int:
        """Calls that scoring one graph takes."""
        return -(-self.images // PART)

    def score(
        self, graphs: Sequence[Graph], done: Callable[[int], None] = lambda count: None
    ) -> list[Score]:
        """Scores, in order; `done` is called with how many parts are there."""
        contents = [to_bytes(graph) for graph in graphs]
        keys = [key("score", content, self._digest) for content in contents]
        missing: dict[str, bytes] = {}
        for k, content in zip(keys, contents, strict=True):
            known = None if k in self._scores else self.memo.result(k)
            if known is not None:
                self._scores[k] = Score(**json.loads(known))
            elif k not in self._scores:
                missing[k] = content
        if missing and not self._parts:
            self._parts = [
                shared(pack_images(self._codes[start : start + PART]))
                for start in range(0, self.images, PART)
            ]
        for k, content in missing.items():
            graph = shared(content)
            calls = [(graph, part) for part in self._parts]
            outputs = np.concatenate(self.work.map(run_images, calls, done))
            self._scores[k] = Score(self._accuracy(outputs), divergence(self.reference, outputs))
            self.memo.keep(k, "score", json.dumps(vars(self._scores[k])).encode())
        return [self._scores[k] for k in keys]

    def known(self, graph: Graph) -> Score | None:
        """The score of a graph that was scored; None for others."""
        return self._scores.get(key("score", to_bytes(graph), self._digest))

    def _accuracy(self, outputs: NDArray[np.float32]) -> float | None:
        if self.labels is None:
            return None
        scores = outputs.reshape(self.images, -1)
        return float((scores.argmax(axis=1) == self.labels).mean())


def check_labels(labels: NDArray[np.int64], classes: int) -> None:
    """Raises `DataError` for a label that is no class of the network."""
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        raise DataError(
            f"label {labels[wrong[0]]} of image {wrong[0]}: the network has {classes} classes, "
            f"0 to {classes - 1}"
        )
