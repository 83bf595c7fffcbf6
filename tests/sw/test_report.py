# SPDX-License-Identifier: Apache-2.0
"""Where two latency reports differ."""

import io
from dataclasses import replace

from rich.console import Console

from bitloop.binary import CopyInfo
from bitloop.report import LatencyReport, LayerLatency, first_difference


def report(device, head=10, layers=(20, 30), tail=5, compute=40):
    return LatencyReport(
        preset="n4",
        device=device,
        cycles=head + sum(layers) + tail,
        causes={"compute": compute, "drain": 25},
        head=head,
        layers=tuple(
            LayerLatency(f"conv{i}", "conv", 8, 100, cycles, 0.5) for i, cycles in enumerate(layers)
        ),
        tail=tail,
    )


def test_copies_have_rows_before_the_layer_with_their_cycles():
    copies = [CopyInfo(name, "reshape", before) for before, name in enumerate("abc")]
    found = replace(report("model"), copies=tuple(copies))
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(found.as_table())
    rows = [line.split("│")[1:-1] for line in console.export_text().splitlines() if "│" in line]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert [row[0] for row in cells] == ["head", "a", "conv0", "b", "conv1", "c", "tail"]
    assert [row[4] for row in cells if row[1] == "reshape"] == ["in head", "in conv1", "in tail"]
    assert found.as_dict()["copies"][1] == {"name": "b", "op": "reshape", "before": 1}


def test_equal_reports_have_no_difference():
    assert first_difference(report("verilator"), report("model")) is None


def test_the_first_difference_is_named():
    measured = report("verilator")
    cases = {
        "head: 10 cycles on verilator, 11 on model": report("model", head=11, layers=(20, 31)),
        "layer 1 (conv1): 30 cycles": report("model", layers=(20, 29), tail=6),
        "tail: 5 cycles on verilator, 6 on model": report("model", tail=6),
        "the total: 65": replace(report("model"), cycles=66),
        "cause compute: 40 cycles on verilator, 39 on model": report("model", compute=39),
    }
    for message, predicted in cases.items():
        assert (first_difference(measured, predicted) or "").startswith(message)
