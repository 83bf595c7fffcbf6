# SPDX-License-Identifier: Apache-2.0
"""The latency report: cycles by cause and by layer, as data, JSON or a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.table import Table

from .binary import Binary, CopyInfo
from .board_time import BoardTime
from .devices.interface import Profile


@dataclass(frozen=True)
class LayerLatency:
    name: str
    op: str
    weight_bits: int | None
    """None for a layer without weights."""
    macs: int
    """Multiply-accumulates, padded taps counted."""
    cycles: int
    utilization: float
    """MACs over what the array could do in these cycles at this width, 0..1."""


@dataclass(frozen=True)
class LatencyReport:
    """One inference. `head` + the layers' cycles + `tail` == `cycles` == the sum of `causes`."""

    preset: str
    device: str
    cycles: int
    causes: dict[str, int]
    head: int
    """Cycles before the first layer's first step."""
    layers: tuple[LayerLatency, ...]
    tail: int
    """Cycles after the last layer's last output."""
    board: BoardTime | None = None
    """None for a device that is no board."""
    copies: tuple[CopyInfo, ...] = ()
    """What only moves between layers, whose cycles are among those of the next one."""

    def as_dict(self) -> dict[str, Any]:
        """The JSON form; its keys are a public contract. `board` is there for boards only."""
        report = {
            "preset": self.preset,
            "device": self.device,
            "cycles": self.cycles,
            "causes": self.causes,
            "head": self.head,
            "layers": [vars(layer) for layer in self.layers],
            "tail": self.tail,
            "copies": [vars(copy) for copy in self.copies],
        }
        if self.board is not None:
            cycles = [layer.cycles for layer in self.layers]
            report["board"] = self.board.as_dict(self.head, cycles, self.tail)
        return report

    def as_table(self) -> Table:
        table = Table(
            title=f"{self.cycles:,} cycles on {self.preset} ({self.device})", title_justify="left"
        )
        table.add_column("layer")
        table.add_column("operator")
        for heading in ("bits", "MACs", "cycles", "share", "utilization"):
            table.add_column(heading, justify="right")
        if self._ms(0):
            table.add_column("ms", justify="right")
        head, tail = self._ms(self.head), self._ms(self.tail)
        table.add_row("head", "", "", "", *self._share(self.head), "", *head, style="dim")
        self._add_copies(table, 0, "in head")
        for index, layer in enumerate(self.layers):
            if index:
                self._add_copies(table, index, f"in {layer.name}")
            table.add_row(
                layer.name,
                layer.op,
                str(layer.weight_bits or ""),
                f"{layer.macs:,}",
                *self._share(layer.cycles),
                f"{layer.utilization:.1%}",
                *self._ms(layer.cycles),
            )
        self._add_copies(table, len(self.layers), "in tail")
        table.add_row("tail", "", "", "", *self._share(self.tail), "", *tail, style="dim")
        table.caption = ", ".join(f"{name} {count:,}" for name, count in self.causes.items())
        if self.board is not None:
            table.caption = "\n".join([table.caption, *self.board.lines()])
            table.caption_justify = "left"
        return table

    def _add_copies(self, table: Table, before: int, where: str) -> None:
        for copy in self.copies:
            if copy.before == before:
                table.add_row(copy.name, copy.op, "", "", where, style="dim")

    def _ms(self, cycles: int) -> tuple[str, ...]:
        """The cell of a column that is there where a clock is known."""
        found = self.board.milliseconds(cycles) if self.board is not None else None
        return () if found is None else (f"{found:.4f}",)

    def _share(self, cycles: int) -> tuple[str, str]:
        return f"{cycles:,}", f"{cycles / self.cycles:.1%}"


def latency_report(
    binary: Binary, profile: Profile, device: str, board: BoardTime | None = None
) -> LatencyReport:
    """Joins the binary's layers with the cycles the device measured for them."""
    config = binary.config
    layers = []
    for layer, cycles in zip(binary.layers, profile.layer_cycles, strict=True):
        peak = cycles * config.lanes * config.columns * 8 / (layer.weight_bits or 8)
        layers.append(
            LayerLatency(
                name=layer.name,
                op=layer.op,
                weight_bits=layer.network_weight_bits,
                macs=layer.macs,
                cycles=cycles,
                utilization=round(layer.macs / peak, 4) if peak else 0.0,
            )
        )
    return LatencyReport(
        preset=config.name,
        device=device,
        cycles=profile.cycles,
        causes=dict(profile.causes),
        head=profile.head,
        layers=tuple(layers),
        tail=profile.tail,
        board=board,
        copies=binary.copies,
    )


def first_difference(expected: LatencyReport, found: LatencyReport) -> str | None:
    """The first part of an inference that takes other cycles in `found`, or the first cause with
    another count; None where all are equal."""
    parts = [("head", expected.head, found.head)]
    for number, layers in enumerate(zip(expected.layers, found.layers, strict=True)):
        layer, other = layers
        parts.append((f"layer {number} ({layer.name})", layer.cycles, other.cycles))
    parts.append(("tail", expected.tail, found.tail))
    parts.append(("the total", expected.cycles, found.cycles))
    for cause, count in expected.causes.items():
        parts.append((f"cause {cause}", count, found.causes[cause]))
    for name, a, b in parts:
        if a != b:
            return f"{name}: {a:,} cycles on {expected.device}, {b:,} on {found.device}"
    return None
