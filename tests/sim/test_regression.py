# SPDX-License-Identifier: Apache-2.0
"""The cocotb runner: results, failures named, ports found."""

from __future__ import annotations

import re

import bench_copy
from copy_core import verilog

from bitloop.hw.config import preset
from bitloop.sim.random_layers import too_many
from bitloop.sim.regression import (
    TestResult,
    cocotb_tests,
    run_bench,
    run_layers,
    verilog_ports,
)


def test_finds_ports() -> None:
    ports = {p.name: p for p in verilog_ports(verilog(preset("n4")), "bitloop_core")}
    assert ports["clk"].direction == "input" and ports["clk"].width == 1
    assert ports["m_axi_araddr"].direction == "output" and ports["m_axi_araddr"].width == 32
    assert len(ports) == 2 + 29 + 19


def test_runs_tests_and_names_the_one_that_fails() -> None:
    assert cocotb_tests(bench_copy) == ["copies", "fails_on_purpose"]
    passed, failed = run_bench(bench_copy, "n4", seed=7)
    assert passed.passed and passed.name == "copies", passed
    assert not failed.passed and failed.seed == 7
    assert "copy.fails_on_purpose (preset n4, seed 7) FAILED" in str(failed)
    assert "a failure to report" in failed.message
    assert failed.log is not None and "copies" in failed.log.read_text()


def test_runs_only_the_tests_named() -> None:
    (result,) = run_bench(bench_copy, "n4", seed=1, tests=["copies"])
    assert result.passed, result


def test_counts_a_simulation_that_cannot_start_as_failed() -> None:
    (result,) = run_bench(bench_copy, "no such preset", seed=1, tests=["copies"])
    assert not result.passed


def test_layers_that_are_refused_neither_pass_nor_fail_but_not_many_may_be() -> None:
    smallest = preset("n4").replace(
        weight_rows=16, activation_words=64, parameter_words=16, step_entries=16
    )
    seen: list[TestResult] = []
    pattern = re.compile("linear-w8")  # layers 3 and 57, whose inputs exceed these memories
    results = run_layers(smallest, 0, 58, pattern=pattern, on_result=seen.append)
    assert seen == results
    assert [(r.passed, r.refused, r.failed) for r in results] == [
        (False, True, False), (False, True, False), (False, False, True),
    ]  # fmt: skip
    assert "refused" in str(results[0]) and "2 of 2 random layers" in str(results[2])
    assert [r.failed for r in run_layers(smallest, 0, 4, pattern=pattern)] == [False]


def test_a_share_of_layers_may_be_refused() -> None:
    assert not too_many(0, 72) and not too_many(1, 1) and not too_many(8, 400)
    assert too_many(2, 72) and too_many(9, 400)
