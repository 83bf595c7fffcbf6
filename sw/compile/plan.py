# SPDX-License-Identifier: Apache-2.0
"""Plan: the steps of one layer, given how its input lies in the activation RAM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bitloop.hw.config import CoreConfig
from bitloop.hw.isa import STEP_SLOTS, Mode

from ..errors import CompileError
from .fold import columns, fold_steps
from .layer import Kind, Layer
from .layout import Layout
from .steps import Lanes, Step, Word, group_words

DENSE = {8: (Mode.DENSE8, 1), 4: (Mode.DENSE4, 2), 2: (Mode.DENSE2, 4)}
"""By width of the weights: mode, and words a step."""
WINDOW_SIZE = 3
MAX_DISTANCE = 63
"""Rows or columns of a word from the origin: 7 bits signed, the origin at the first tap."""


@dataclass(frozen=True, eq=False)
class Plan:
    """How one layer walks its input."""

    mode: Mode
    prologue: tuple[Step, ...]
    body: tuple[Step, ...]
    source: NDArray[np.int32]
    """(weight rows, words a row serves, lanes): index into the channel's weights, -1 for 0."""
    origin: tuple[int, int]
    """Row and column of the first tap for output (0, 0)."""
    stride: tuple[int, int]
    """Coordinate steps a pixel; 0 in a direction without padding, where nothing is outside."""
    transposed: bool = False
    """Walks columns of the image one after the other instead of rows: in the words, and in the
    instruction, rows and columns change places."""

    def cycles(self, height: int, width: int) -> int:
        """Steps of one output group of `height` x `width` pixels."""
        starts = width if self.transposed else height
        return starts * len(self.prologue) + height * width * len(self.body)


def plan(
    layer: Layer, layout: Layout, size: tuple[int, int], config: CoreConfig, by_rows: bool = True
) -> Plan:
    """The plan with the fewest steps for an output of `size` (rows, columns); `by_rows` admits none
    that walks columns. A copy has no steps.

    Raises `CompileError` where a padded kernel reaches farther than a step entry can say.
    """
    if layer.kind is Kind.COPY:
        nothing = np.zeros((0, 1, config.lanes), np.int32)
        return Plan(Mode.DENSE8, (), (), nothing, (0, 0), (0, 0))
    padded, origin, stride = _frame(layer, layout)
    for axis, name in enumerate(("rows", "columns")):
        distance = layer.dilation[axis] * (layer.kernel[axis] - 1)
        if padded[axis] and distance > MAX_DISTANCE - layout.fold:
            raise CompileError(
                f"layer {layer.name}: kernel {layer.kernel} with dilation {layer.dilation} and "
                f"padding spans {distance} {name}, at most {MAX_DISTANCE - layout.fold} can be "
                "padded; pad the model's tensor instead"
            )
        if padded[axis] and layer.stride[axis] > 15:
            raise CompileError(
                f"layer {layer.name}: stride {layer.stride} with padding must be at most 15"
            )

    def finish(mode: Mode, prologue: list[Step], body: list[Step], digits: int) -> Plan:
        source = _source([*prologue, *body], digits, config.lanes)
        return Plan(mode, tuple(prologue), tuple(body), source, origin, stride)

    if layer.kind is Kind.DENSE:
        mode, digits = DENSE[layer.bits]
        if layout.fold:
            return finish(mode, [], fold_steps(layer, layout, digits), digits)
        words = _words(layer, layout, padded, config.lanes)
        return finish(mode, [], _dense_steps(words, digits, layer.residual is not None), digits)
    taps = _words(layer, layout, padded, 0)
    if layer.kind is Kind.MAXIMUM:
        return finish(Mode.MAXIMUM, [], _tap_steps(taps, lanes=False, hold=False), 1)
    hold = layer.shared and bool((layer.weights == 1).all())
    best = finish(Mode.DEPTHWISE, [], _tap_steps(taps, lanes=not hold, hold=hold), 1)
    if hold:
        ones = np.full((1, 1, config.lanes), -1, np.int32)
        ones[0, 0, :STEP_SLOTS] = 0
        best = Plan(best.mode, best.prologue, best.body, ones, origin, stride)
    for transposed in (False,) if by_rows else (False, True):
        window = _window_steps(layer, layout, padded, config.window_taps, transposed)
        if window is not None:
            other = replace(finish(Mode.WINDOW, *window, 1), transposed=transposed)
            if other.cycles(*size) < best.cycles(*size):
                best = other
    return best


def partial_plan(
    layer: Layer, layout: Layout, rows: range, columns: range, config: CoreConfig
) -> Plan:
    """The plan of a dense layer for outputs that only these rows and columns of the kernel serve.
    Rows cut short are walked upwards, so that `bands` can join their weights to those of whole
    ones."""
    padded, origin, stride = _frame(layer, layout)
    mode, digits = DENSE[layer.bits]
    walked = rows[::-1] if len(columns) < layer.kernel[1] else rows
    words = _words(layer, layout, padded, config.lanes, walked, columns)
    body = _dense_steps(words, digits, layer.residual is not None)
    return Plan(mode, (), tuple(body), _source(body, digits, config.lanes), origin, stride)


def _frame(
    layer: Layer, layout: Layout
) -> tuple[tuple[bool, bool], tuple[int, int], tuple[int, int]]:
    """Whether rows and columns are padded, and a plan's `origin` and `stride`."""
    top, left, bottom, right = layer.padding
    padded = (max(top, bottom) > 0, max(left, right) > 0 or layout.fold > 0)
    step, left = columns(layer, layout)
    origin = (-top if padded[0] else 0, -left if padded[1] else 0)
    return padded, origin, (layer.stride[0] if padded[0] else 0, step if padded[1] else 0)


def _words(
    layer: Layer,
    layout: Layout,
    padded: tuple[bool, bool],
    lanes: int,
    rows: range | None = None,
    columns: range | None = None,
) -> list[Word]:
    """The words of one output pixel, channels innermost; `lanes` 0: one word a tap. `rows`,
    `columns`: of the kernel, all of them without."""
    words = []
    for ky in range(layer.kernel[0]) if rows is None else rows:
        for kx in range(layer.kernel[1]) if columns is None else columns:
            y, x = ky * layer.dilation[0], kx * layer.dilation[1]
            dy, dx = (y if padded[0] else 0), (x if padded[1] else 0)
            offset = y * layout.row_step + x * layout.pixel_step
            tap = ky * layer.kernel[1] + kx
            if lanes == 0:
                words.append(Word(dy, dx, offset, tap, 1))
                continue
            for c in range(layout.pixel_words):
                count = min(lanes, layout.channels - c * lanes)
                source = tap * layout.channels + c * lanes
                words.append(Word(dy, dx, offset + c, source, count))
    return words


def _dense_steps(words: list[Word], digits: int, residual: bool) -> list[Step]:
    """Steps of up to `digits` words. A residual is read beside any step but the last: then the
    shortest, which leaves most banks free, comes first."""
    groups = group_words(words, digits)
    if residual:
        shortest = min(groups, key=len)
        groups.remove(shortest)
        groups.insert(0, shortest)
    return [
        Step(
            tuple(group),
            tuple(Lanes(k, 0, word.source, word.count) for k, word in enumerate(group)),
        )
        for group in groups
    ]


def _tap_steps(taps: list[Word], lanes: bool, hold: bool) -> list[Step]:
    """Up to four taps a step, each on the lane of its slot."""
    return [
        Step(
            tuple(group),
            tuple(Lanes(0, j, tap.source, 1) for j, tap in enumerate(group)) if lanes else (),
            hold=hold,
        )
        for group in group_words(taps, STEP_SLOTS)
    ]


def _window_steps(
    layer: Layer,
    layout: Layout,
    padded: tuple[bool, bool],
    window_taps: int,
    transposed: bool,
) -> tuple[list[Step], list[Step]] | None:
    """(prologue, body) for the window registers: each column of the image is fetched once, its
    rows in one step; `transposed`: each row, its columns in one step. None where the kernel or the
    banks do not allow it."""
    along, across = (0, 1) if transposed else (1, 0)  # axes of the walk, and of a fetched column
    steps = (layout.row_step, layout.pixel_step)
    height, width = layer.kernel[across], layer.kernel[along]
    if not window_taps or max(height, width) > WINDOW_SIZE or layer.dilation[along] != 1:
        return None
    columns = []
    for x in range(width):
        rows = [y * layer.dilation[across] for y in range(height)]
        column = tuple(
            Word(
                y if padded[across] else 0,
                x if padded[along] else 0,
                y * steps[across] + x * steps[along],
            )
            for y in rows
        )
        if len({word.bank for word in column}) < height:
            return None
        columns.append(column)
    fresh = min(layer.stride[along], width)  # columns that the pixel before has not seen
    prologue = [Step(column, mac=False, shift=True) for column in columns[:-fresh]]
    body = [Step(column, mac=False, shift=True) for column in columns[-fresh:-1]]
    places = [  # window tap and kernel tap; the kernel's last column is the newest
        (WINDOW_SIZE * y + WINDOW_SIZE - width + x, x * height + y if transposed else y * width + x)
        for y in range(height)
        for x in range(width)
    ]
    first = tuple(Lanes(0, t, source, 1) for t, source in places if t < window_taps)
    second = tuple(Lanes(0, t - 8, source, 1) for t, source in places if t >= window_taps)
    body.append(Step(columns[-1], first, shift=True))
    if second:
        body.append(Step((), second, phase=1))
    return prologue, body


def _source(steps: Sequence[Step], digits: int, lanes: int) -> NDArray[np.int32]:
    rows = [step for step in steps if step.mac and not step.hold]
    source = np.full((len(rows), digits, lanes), -1, np.int32)
    for row, step in enumerate(rows):
        for part in step.lanes:
            span = np.arange(part.source, part.source + part.count)
            source[row, part.digit, part.lane : part.lane + part.count] = span
    return source
