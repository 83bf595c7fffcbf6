# SPDX-License-Identifier: Apache-2.0
"""The curves and maps of the search's page, as SVG."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap, LogNorm
from matplotlib.figure import Figure

from ..search.result import Point, SearchResult
from .page import printable

STYLE: Any = {
    "svg.fonttype": "none",  # text stays text
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
}
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#777777"
BITS_COLOURS = {2: "#cfe8f7", 4: "#56a5d4", 8: "#004c78"}
ROW_INCHES = 0.24
LABEL = 34
"""Characters of a layer's name that are drawn, its last ones."""


def figures(result: SearchResult) -> dict[str, Markup]:
    """By name: `front`, `bits`, `sensitivity`, `error`."""
    with matplotlib.rc_context(STYLE):
        drawn = {
            "front": _front(result),
            "bits": _bits(result),
            "sensitivity": _sensitivity(result),
            "error": _error(result),
        }
        return {name: _svg(figure, name) for name, figure in drawn.items()}


def _front(result: SearchResult) -> Figure:
    """Accuracy against measured cycles; where nothing is labelled, loss against them."""
    figure = Figure(figsize=(9.5, 5), layout="constrained")
    axes = figure.subplots()
    labelled = result.accuracy is not None

    def height(point: Point) -> float:
        return 100 * (point.accuracy or 0.0) if labelled else (point.divergence or 0.0)

    def draw(points: Sequence[Point], label: str, marker: str, colour: str, line: str) -> None:
        known = [p for p in points if (p.accuracy if labelled else p.divergence) is not None]
        if known:
            axes.plot(
                [p.cycles for p in known], [height(p) for p in known],
                linestyle=line, marker=marker, color=colour, label=label, markersize=7, alpha=0.9,
            )  # fmt: skip

    draw(result.front, "search, measured cycles (Pareto front)", "o", BLUE, "-")
    draw(result.proxies, "integer program, BitOps", "s", ORANGE, ":")
    draw(result.rivals, "other methods, same budget", "x", GREEN, "none")
    draw(result.uniform, "uniform widths", "D", GREY, "none")
    for point in result.uniform:
        if (point.accuracy if labelled else point.divergence) is not None:
            axes.annotate(
                point.label, (point.cycles, height(point)), xytext=(6, -12),
                textcoords="offset points", color=GREY,
            )  # fmt: skip
    if labelled and result.accuracy is not None and result.accuracy_float is not None:
        axes.plot(
            [result.cycles], [100 * result.accuracy], "*", color=ORANGE, markersize=16,
            label="chosen", zorder=5,
        )  # fmt: skip
        axes.axhline(100 * result.accuracy_float, color="#222", linewidth=1, linestyle="--")
        axes.annotate(
            "float", (1, 100 * result.accuracy_float), xycoords=("axes fraction", "data"),
            xytext=(-4, 3), textcoords="offset points", ha="right",
        )  # fmt: skip
    if "cycles" in result.limits:
        axes.axvline(result.limits["cycles"], color=GREY, linewidth=1, linestyle=":")
    axes.set_xlabel("cycles of one inference, measured whole")
    axes.set_ylabel("accuracy, %" if labelled else "divergence of the output")
    axes.set_xlim(left=0)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best")
    return figure


def _bits(result: SearchResult) -> Figure:
    """Bits of each layer: the chosen network, and the front from fewest cycles on."""
    names = list(result.weight_bits)
    columns = [("chosen", result.weight_bits, result.cycles)]
    columns += [("", dict(point.choice), point.cycles) for point in result.front]
    values = np.array([[bits[name] for _, bits, _ in columns] for name in names])
    figure = _rows(names, 3.2 + 0.62 * len(columns))
    axes = figure.subplots()
    widths = sorted({*BITS_COLOURS, *values.flatten().tolist()})
    colours = [BITS_COLOURS.get(w, "#999999") for w in widths]
    edges = [0.0, *(float(w) + 0.5 for w in widths)]
    _cells(axes, values, names, ListedColormap(colours), BoundaryNorm(edges, len(widths)))
    labels = [f"{label or 'front'}\n{cycles:,}" for label, _, cycles in columns]
    axes.set_xticks(range(len(columns)), labels, rotation=60, ha="right", fontsize=8)
    for row in range(len(names)):
        for column in range(len(columns)):
            dark = values[row, column] >= 8
            axes.text(
                column, row, str(values[row, column]), ha="center", va="center", fontsize=8,
                color="white" if dark else "black",
            )  # fmt: skip
    return figure


def _sensitivity(result: SearchResult) -> Figure:
    """What each layer loses at each width, on a logarithmic scale of colours."""
    evidence = result.evidence
    assert evidence is not None
    names = list(evidence.losses)
    widths = sorted(next(iter(evidence.losses.values())), reverse=True)
    values = np.array([[evidence.losses[n][w] for w in widths] for n in names])
    figure = _rows(names, 3.2 + 1.1 * len(widths))
    axes = figure.subplots()
    positive = values[values > 0]
    low, high = (positive.min(), positive.max()) if positive.size else (1e-6, 1.0)
    shown = np.ma.masked_less_equal(values, 0)
    _cells(axes, shown, names, "cividis", LogNorm(low, max(high, low * 1.01)))
    axes.set_xticks(range(len(widths)), [f"{w} bits" for w in widths])
    middle = np.sqrt(low * high)
    for row in range(len(names)):
        for column in range(len(widths)):
            value = values[row, column]
            axes.text(
                column, row, f"{value:.2g}", ha="center", va="center", fontsize=8,
                color="white" if 0 < value < middle else "black",
            )  # fmt: skip
    axes.set_title(f"loss by {evidence.method}", fontsize=10)
    return figure


def _error(result: SearchResult) -> Figure:
    """By how much the whole differs from the sum of its layers, of every network reported."""
    figure = Figure(figsize=(9.5, 3), layout="constrained")
    axes = figure.subplots()
    for points, label, marker, colour in (
        (result.front, "search", "o", BLUE),
        (result.proxies, "BitOps", "s", ORANGE),
        (result.rivals, "other methods", "x", GREEN),
        (result.uniform, "uniform widths", "D", GREY),
    ):
        if points:
            errors = [100 * (p.cycles - p.predicted) / p.cycles for p in points]
            axes.plot([p.cycles for p in points], errors, marker, color=colour, label=label)
    axes.axhline(0, color="#222", linewidth=1)
    axes.set_xlabel("cycles of one inference, measured whole")
    axes.set_ylabel("whole less sum, % of whole")
    axes.set_xlim(left=0)
    axes.legend(loc="best")
    return figure


def _rows(names: Sequence[str], inches: float) -> Figure:
    return Figure(figsize=(inches, 1.3 + ROW_INCHES * len(names)), layout="constrained")


def _cells(axes: Axes, values: Any, names: Sequence[str], colours: Any, norm: Any) -> None:
    """A map of one row a name, the first on top, as vectors: images are no text."""
    rows, columns = values.shape
    edges = np.arange(columns + 1) - 0.5, np.arange(rows + 1) - 0.5
    axes.pcolormesh(*edges, values, cmap=colours, norm=norm, edgecolors="white", linewidth=1)
    axes.invert_yaxis()
    axes.grid(False)
    # Names come from model files: neither control characters nor formulas are drawn.
    labels = [str(printable(name))[-LABEL:] for name in names]
    axes.set_yticks(range(len(names)), labels, fontsize=8, parse_math=False)


def _svg(figure: Figure, name: str) -> Markup:
    """The figure as an element to stand in a page, the same for the same figure."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # The library numbers its groups anew in each figure; ids of a page must differ.
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    return Markup(text.replace("<svg ", f'<svg id="{name}" role="img" ', 1))
