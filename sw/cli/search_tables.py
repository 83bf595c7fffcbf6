# SPDX-License-Identifier: Apache-2.0
"""What a search found, as tables to print."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table

from ..search.result import Point, SearchResult


def result_report(result: SearchResult) -> Group:
    """The chosen widths, what they cost and save; the front and the rivals where there are any."""
    table = Table(title="bit-widths chosen", title_justify="left")
    table.add_column("layer")
    table.add_column("bits", justify="right")
    table.add_column("cycles", justify="right")
    for layer in result.layers:
        table.add_row(layer.name, str(layer.weight_bits or ""), f"{layer.cycles:,}")
    difference = result.cycles - result.cycles_sum_of_layers
    lines = [
        f"cycles: {result.cycles_uniform8:,} at uniform 8 bits, {result.cycles:,} now "
        f"({result.cycles_uniform8 / result.cycles:.2f}x faster), measured whole on "
        f"{result.device}; {difference:+,} against the sum of layers, head and tail",
    ]
    if result.milliseconds is not None:
        lines.append(f"time: {result.milliseconds:.3f} ms at {result.megahertz:g} MHz")
    if result.verified:
        lines.append(f"verified: {result.verified} counts the same cycles")
    if result.accuracy is not None:
        lines.append(
            f"accuracy: {result.accuracy_float:.2%} float, {result.accuracy_uniform8:.2%} at "
            f"uniform 8 bits, {result.accuracy:.2%} now"
        )
    lines.append(
        f"whole networks measured: {result.evaluations}"
        + (
            f", {result.evaluations - result.measured} of them in earlier searches"
            if result.evaluations > result.measured
            else ""
        )
    )
    parts: list[RenderableType] = [table]
    if result.front:
        parts.append(_points("Pareto front", [*result.front, *result.uniform], result))
    if result.rivals:
        parts.append(_points("the same budget by other methods", result.rivals, result))
    spent = ", ".join(f"{name} {seconds:.1f}" for name, seconds in result.seconds.items())
    return Group(*parts, *lines, f"seconds: {spent}")


def _points(title: str, points: Sequence[Point], result: SearchResult) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("network")
    for heading in ("cycles", "of 8-bit", "whole - sum", "weight bytes", "loss", "accuracy"):
        table.add_column(heading, justify="right")
    table.add_column("bits")
    for point in points:
        table.add_row(
            point.label,
            f"{point.cycles:,}",
            f"{point.cycles / result.cycles_uniform8:.1%}",
            f"{point.cycles - point.predicted:+,}",
            f"{point.weight_bytes:,}",
            f"{point.loss:.4g}",
            "" if point.accuracy is None else f"{point.accuracy:.2%}",
            point.note or " ".join(str(bits) for bits in point.choice.values()),
        )
    return table
