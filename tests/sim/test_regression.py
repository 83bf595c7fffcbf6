# SPDX-License-Identifier: Apache-2.0
"""The cocotb runner: results, failures named, ports found."""

from __future__ import annotations

import bench_copy
from copy_core import verilog

from bitloop.hw.config import preset
from bitloop.sim.regression import cocotb_tests, run_bench, verilog_ports


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
