# SPDX-License-Identifier: Apache-2.0
"""`bitloop build`: lists, packages, and refuses with one message."""

import json

import pytest
from typer.testing import CliRunner

from bitloop.boards.targets import TARGETS
from bitloop.cli import app
from bitloop.hw.verilog import TOP


def run(*arguments):
    return CliRunner().invoke(app, ["build", *map(str, arguments)])


def refused(*arguments):
    result = run(*arguments)
    assert result.exit_code == 2 and "Traceback" not in result.output
    return result.output


def test_boards_are_listed():
    rows = json.loads(run("--list", "--json").stdout)
    assert [row["board"] for row in rows] == list(TARGETS)
    assert all(row["clock_megahertz"] >= 50 for row in rows)
    table = run("--list").stdout
    for target in TARGETS.values():
        assert target.name in table and target.title in table
    assert "generic-axi" in table


def test_the_bare_core_is_packaged(tmp_path):
    result = run("--board", "generic-axi", "--preset", "n4", "-o", tmp_path / "package")
    assert result.exit_code == 0, result.output
    names = {path.name for path in (tmp_path / "package").rglob("*") if path.is_file()}
    assert names == {
        "bitloop_core.v",
        "bitloop_core.json",
        "component.xml",
        "bitloop_litex.py",
        "bitloop_pynq.py",
    }
    result = run("--board", "generic-axi", "--preset", "n4", "-o", tmp_path / "package", "--json")
    assert {path.rpartition("/")[2] for path in json.loads(result.stdout)["written"]} == names
    assert f"module {TOP}(" in (tmp_path / "package/hdl/bitloop_core.v").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "build needs --board NAME and -o DIR"),
        (("--board", "ulx3s-12f"), "build needs --board NAME and -o DIR"),
        (("--board", "ulx4s", "-o", "{tmp}"), "unknown board 'ulx4s'; known: ulx3s-85f"),
        (("--board", "ulx4s", "-o", "{tmp}"), "generic-axi"),
        (("--board", "generic-axi", "--flash", "-o", "{tmp}"), "are for bitstreams"),
        (("--board", "generic-axi", "--megahertz", "50", "-o", "{tmp}"), "are for bitstreams"),
        (("--board", "ulx3s-12f", "-o", "{file}"), "is a file; name a folder"),
        (("--board", "ulx3s-12f", "--preset", "n5", "-o", "{tmp}"), "unknown preset 'n5'"),
        (("--board", "ulx3s-12f", "--megahertz", "150", "-o", "{tmp}"), "up to 100 MHz"),
        (("--board", "ulx3s-12f", "--set", "data_bits=64", "-o", "{tmp}"), "32 bits wide"),
    ],
)
def test_what_cannot_be_built_is_refused(arguments, message, tmp_path):
    (tmp_path / "file").write_text("")
    filled = [a.format(tmp=tmp_path / "out", file=tmp_path / "file") for a in arguments]
    assert message in refused(*filled)
    assert not (tmp_path / "out").exists()


def test_an_interruption_says_where_things_are(tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setenv("BITLOOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("bitloop.boards.build.emit_board", interrupted)
    result = run("--board", "ulx3s-12f", "-o", tmp_path / "out")
    assert result.exit_code == 130
    assert f"logs, are in {tmp_path / 'cache' / 'boards'}" in result.output
