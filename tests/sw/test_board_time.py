# SPDX-License-Identifier: Apache-2.0
"""Times of an inference on a board, in reports."""

import json
from dataclasses import replace

import pytest

from bitloop.board_time import SAMPLES, BoardTime, Prediction, board_time
from bitloop.devices.interface import Profile, Trip
from bitloop.report import LatencyReport, LayerLatency

CAUSES = {"compute": 60_000, "weight_wait": 5_000, "memory_wait": 9_000, "drain": 1_000}
MEASURED = Profile(75_000, CAUSES, 7_500, (60_000, 6_000), 1_500)


def other(layers=(60_000, 6_000), **causes):
    """A profile that differs in these."""
    return replace(MEASURED, causes={**CAUSES, **causes}, layer_cycles=layers)


def predicted(*profiles, complete=False):
    return Prediction.of(MEASURED, profiles, complete)


BOARD = BoardTime(
    75.0,
    "met by the last build",
    Trip(300_000, 900, 200),
    CAUSES,
    predicted(other(weight_wait=4_000), other(weight_wait=4_100)),
)


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


def test_waits_may_differ_from_a_sample_and_work_may_not():
    assert BOARD.difference() is None
    model = report(BOARD).as_dict()["board"]["model"]
    assert model["work_equal"] is True and model["exact"] is False
    assert (model["least"]["weight_wait"], model["most"]["weight_wait"]) == (4_000, 4_100)
    assert "weight_wait 4,000 to 4,100" in report(BOARD).as_table().caption
    for cause in ("compute", "drain"):
        wrong = replace(BOARD, predicted=predicted(other(**{cause: 7})))
        assert wrong.difference().startswith(f"cause {cause}: 7 cycles on model, ")
        assert report(wrong).as_dict()["board"]["model"]["work_equal"] is False


def test_drain_may_be_what_the_model_says_at_some_time_of_the_refresh():
    between = replace(BOARD, predicted=predicted(other(drain=990), other(drain=1_001)))
    assert between.difference() is None
    assert "drain 990 to 1,001; compute is equal, drain among these" in between.lines()[0]
    below = replace(BOARD, predicted=predicted(other(drain=1_001), other(drain=1_002)))
    assert below.difference() == "cause drain: 1,001 to 1,002 cycles on model, 1,000 on the board"


def test_an_exact_prediction_ends_the_search():
    def profiles():
        yield other(drain=7)
        yield MEASURED
        raise AssertionError("asked for more")

    found = Prediction.of(MEASURED, profiles(), complete=True)
    assert found.exact and found.causes == CAUSES
    line = replace(BOARD, predicted=found).lines()[0]
    assert "drain 1,000; the board's are equal, in every layer too" in line


def test_with_all_predictions_waits_and_layers_must_be_equal():
    shifted = other(layers=(59_999, 6_001))
    assert predicted(shifted).difference(CAUSES) is None
    assert "in every layer" in predicted(shifted, complete=True).difference(CAUSES)
    waits = predicted(other(memory_wait=8_000), complete=True)
    assert waits.difference(CAUSES).startswith("cause memory_wait: 8,000 cycles on model")


@pytest.mark.parametrize(
    ("profiles", "thorough", "asked"),
    [
        ([other(weight_wait=4_000)] * 50, False, SAMPLES),
        ([other(weight_wait=4_000)] * 50, True, SAMPLES + 50),
        ([other(drain=7)] * 50, False, SAMPLES + 50),
        ([other(drain=7)] * 30 + [MEASURED] * 20, False, SAMPLES + 31),
    ],
    ids=["a sample", "all asked for", "all to be sure", "up to the exact one"],
)
def test_more_predictions_are_made_where_a_sample_is_not_enough(profiles, thorough, asked):
    class Board:
        megahertz, clock_note, made = 75.0, "", 0

        def trip(self):
            return BOARD.trip

        def predictions(self):
            for profile in profiles:
                self.made += 1
                yield profile

    board = Board()
    found = board_time(board, MEASURED, thorough)
    assert board.made == asked
    assert found.predicted.exact == (MEASURED in profiles)


def test_devices_that_are_no_boards_report_as_ever():
    assert "board" not in report(None).as_dict()
    assert report(None).as_table().columns[-1].header == "utilization"
