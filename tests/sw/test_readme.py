# SPDX-License-Identifier: Apache-2.0
"""What the README shows runs as it stands there."""

import re
import shlex
from pathlib import Path

from typer.testing import CliRunner

from bitloop.cli import app
from bitloop.demo.files import write

README = Path(__file__).parents[2] / "README.md"

ELSEWHERE = ("bitloop sim", "bitloop build --board ulx3s", "--device serial:", "--device virtual:")
"""Commands that have tests of their own, or need a board."""


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


def test_the_python_example_has_ten_lines_and_runs(capsys):
    (code,) = blocks("python")
    assert len([line for line in code.splitlines() if line]) == 10
    exec(compile(code, "README.md", "exec"), {})
    accuracy = float(capsys.readouterr().out.split()[0])
    assert accuracy >= 0.9


def test_the_commands_of_the_tour_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path("."))
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    lines = [line for line in lines if not any(part in line for part in ELSEWHERE)]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("bitloop ")]
    assert {command[0] for command in commands} >= {"verilog", "compile", "latency", "search"}
    for command in commands:
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, f"{command}: {result.output}"
    assert Path("build/core.json").is_file() and Path("net.mixed.pt2").is_file()
