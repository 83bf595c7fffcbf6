# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from typer.testing import CliRunner

from bitloop.boards.targets import TARGETS
from bitloop.cli import app
from bitloop.session import is_board


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_every_board_is_listed_and_the_ports():
    result = invoke("devices", "--json")
    assert result.exit_code == 0, result.output
    found = {row["device"]: row for row in json.loads(result.stdout)}
    assert {"reference", "model", "verilator"} <= set(found)
    assert {f"virtual:{name}" for name in TARGETS} <= set(found)
    ports = set(found) - {"reference", "model", "verilator", *(f"virtual:{n}" for n in TARGETS)}
    assert all(name.startswith("serial:") for name in ports)
    assert {name for name in found if is_board(name)} == set(found) - {
        "reference",
        "model",
        "verilator",
    }
    for name in TARGETS:
        assert f"virtual:{name}" in invoke("devices").stdout


@pytest.mark.parametrize(
    "device, words",
    [
        ("serial:/dev/ttyUSB99", ["cannot open /dev/ttyUSB99", "bitloop devices"]),
        ("virtual:nonsense", ["unknown board 'nonsense'", "ulx3s-12f"]),
        ("fpga", ["unknown device 'fpga'", "virtual:BOARD"]),
    ],
)
def test_boards_that_are_not_there_are_one_message(network, device, words):
    result = invoke("latency", network.binary, "--device", device)
    assert result.exit_code == 2
    for word in words:
        assert word in result.output
    assert "Traceback" not in result.output


def test_a_boards_memory_is_its_own(network):
    result = invoke(
        "latency", network.binary, "--device", "virtual:ulx3s-12f", "--memory", "latency=9"
    )
    assert result.exit_code == 2
    assert "--memory: virtual:ulx3s-12f has its own" in result.output
