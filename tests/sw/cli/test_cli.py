# SPDX-License-Identifier: Apache-2.0
"""The command line's contract: names, help, and one clear message with exit code 2."""

import importlib
import importlib.util
import json
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from bitloop.cli import app
from bitloop.cli.common import parse_memory, parse_setting
from bitloop.hw.config import PRESETS, ConfigError

VERBS = "verilog sim quantize compile inspect run latency search sensitivity presets isa".split()


def invoke(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def assert_refused(result, *words):
    """Exit code 2, and one message that holds `words`."""
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    _, message = re.split(r"^bitloop: ", result.stderr, flags=re.MULTILINE)
    for word in words:
        assert str(word) in message


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb):
    result = invoke(verb, "--help")
    assert result.exit_code == 0
    assert f"Example: bitloop {verb}" in result.stdout


def test_no_verb_prints_help():
    result = invoke()
    assert all(verb in result.output for verb in VERBS)


def test_presets_as_json_have_the_figures_of_the_configs():
    rows = json.loads(invoke("presets", "--json").stdout)
    assert [row["preset"] for row in rows] == list(PRESETS)
    n16 = rows[-1]
    assert (n16["weight_kb"], n16["activation_kb"]) == (256, 96)
    assert n16["multipliers"] == PRESETS["n16"].multipliers


def test_isa_prints_every_format_and_register():
    from bitloop.hw import isa, registers

    text = invoke("isa").stdout
    assert all(f"### {opcode.name} " in text for opcode in isa.Opcode)
    assert all(f"`{register.name}`" in text for register in registers.REGISTERS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compile", "none.pt2", "-o", "out/x"], ["none.pt2", "No such file"]),
        (["quantize", "none.pt2", "--data", "d.npz", "-o", "out/x"], ["none.pt2", "No such file"]),
        (["inspect", "none.bitloop"], ["none.bitloop", "No such file"]),
        (["latency", "none.bitloop"], ["none.bitloop", "No such file"]),
        (["run", "none.bitloop", "--input", "x", "--output", "out/x"], ["none.bitloop"]),
        (
            ["search", "none.pt2", "--data", "d.npz", "--budget-cycles", "5", "-o", "out/x"],
            ["none"],
        ),
        (["compile", "none.pt2", "--preset", "n5", "-o", "out/x"], ["n5", "n16m8"]),
        (["compile", "none.pt2", "--set", "rows=5", "-o", "out/x"], ["rows", "weight_rows"]),
        (["compile", "none.pt2", "--set", "weight_rows=5", "-o", "out/x"], ["16 to 4096", "5"]),
        (["compile", "none.pt2", "--set", "weight_rows", "-o", "out/x"], ["FIELD=VALUE"]),
        (["verilog", "--preset", "n5", "-o", "out/core.v"], ["n5"]),
        (["verilog", "--set", "lanes=5", "-o", "out/core.v"], ["lanes", "4, 8 or 16"]),
        (["sim", "--preset", "n5"], ["n5"]),
        (["latency", "none.bitloop", "--memory", "speed=4"], ["speed=4", "latency=CYCLES"]),
        (["run", "b", "--input", "x", "--output", "out/x", "--memory", "bytes=0"], ["bytes=0"]),
    ],
)
def test_bad_arguments_are_one_message(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused(invoke(*arguments), *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["compile"],
        ["nonsense"],
        ["latency", "b", "--device", "fpga"],
        ["quantize", "--weights", "3"],
    ],
)
def test_usage_errors_exit_with_2(arguments):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_memory_and_settings_parse():
    memory = parse_memory("bytes=8, latency=1")
    assert (memory.latency, memory.bytes_per_cycle) == (1, 8)
    assert parse_memory(None) == parse_memory("latency=40,bytes=4")
    assert parse_setting("weight_rows=0x200") == ("weight_rows", 512)
    for text in ("latency", "latency=-1", "latency=0", "latency=4;bytes=4", "=4"):
        with pytest.raises(ConfigError, match="--memory"):
            parse_memory(text)


def test_importing_bitloop_loads_nothing_heavy():
    code = (
        "import sys, bitloop, bitloop.cli; "
        "print([m for m in ('torch', 'numpy', 'amaranth', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_verbs_stay_callable_when_their_packages_are_imported():
    import bitloop

    for verb in bitloop.__all__:
        if importlib.util.find_spec(f"bitloop.{verb}") is not None:
            importlib.import_module(f"bitloop.{verb}")
        assert callable(getattr(bitloop, verb))
