# SPDX-License-Identifier: Apache-2.0
"""Times of an inference on a board, in reports."""

import json
from dataclasses import replace

import pytest

from bitloop.board_time import BoardTime
from bitloop.devices.interface import Trip
from bitloop.report import LatencyReport, LayerLatency

CAUSES = {"compute": 60_000, "weight_wait": 5_000, "memory_wait": 9_000, "drain": 1_000}
PREDICTED = {**CAUSES, "weight_wait": 4_000}
BOARD = BoardTime(75.0, "met by the last build", Trip(300_000, 900, 200), CAUSES, PREDICTED)


def report(board):
    return LatencyReport(
        preset="n4",
        device="virtual:ulx3s-12f",
        cycles=75_000,
        causes=CAUSES,
        head=7_500,
        layers=(
            LayerLatency("conv", "conv", 8, 100, 60_000, 0.5),
            LayerLatency("pool", "maxpool", None, 0, 6_000, 0.0),
        ),
        tail=1_500,
        board=board,
    )


def test_times_are_cycles_at_the_clock():
    found = json.loads(json.dumps(report(BOARD).as_dict()))["board"]
    assert found["time"] == {
        "compute_ms": pytest.approx(1.0),
        "transfer_ms": pytest.approx(3.0),
        "end_to_end_ms": pytest.approx(4.0),
        "frames_per_second": pytest.approx(250.0),
        "frames_per_second_compute": pytest.approx(1000.0),
        "head_ms": pytest.approx(0.1),
        "layers_ms": [pytest.approx(0.8), pytest.approx(0.08)],
        "tail_ms": pytest.approx(0.02),
    }
    time = found["time"]
    parts = time["head_ms"] + sum(time["layers_ms"]) + time["tail_ms"]
    assert parts == pytest.approx(time["compute_ms"])
    assert (found["clock_megahertz"], found["bytes_sent"]) == (75.0, 900)


def test_without_a_clock_there_are_cycles_and_the_way_to_time():
    unknown = replace(BOARD, megahertz=None, note="run `bitloop build` first")
    found = report(unknown).as_dict()["board"]
    assert found["time"] is None and found["clock_note"] == "run `bitloop build` first"
    assert (found["end_to_end_cycles"], found["transfer_cycles"]) == (300_000, 225_000)
    assert "ms" not in [column.header for column in report(unknown).as_table().columns]
    assert "run `bitloop build` first" in report(unknown).as_table().caption
    assert " ms" not in report(unknown).as_table().caption


def test_the_table_has_milliseconds():
    table = report(BOARD).as_table()
    assert table.columns[-1].header == "ms"
    assert list(table.columns[-1].cells) == ["0.1000", "0.8000", "0.0800", "0.0200"]
    for words in ("compute 1.000 ms", "transfer 3.000 ms", "end to end 4.000 ms", "250.0 frames/s"):
        assert words in table.caption


def test_waits_may_differ_from_the_model_and_work_may_not():
    assert BOARD.difference() is None
    assert report(BOARD).as_dict()["board"]["model"]["work_equal"] is True
    for cause in ("compute", "drain"):
        wrong = replace(BOARD, predicted={**PREDICTED, cause: 7})
        assert wrong.difference().startswith(f"cause {cause}: 7 cycles on model, ")
        assert report(wrong).as_dict()["board"]["model"]["work_equal"] is False


def test_devices_that_are_no_boards_report_as_ever():
    assert "board" not in report(None).as_dict()
    assert report(None).as_table().columns[-1].header == "utilization"
