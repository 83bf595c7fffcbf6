# SPDX-License-Identifier: Apache-2.0
"""`bitloop train`: files in, files out, and messages."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from torch.export import ExportedProgram
from typer.testing import CliRunner, Result

from bitloop.cli import app
from bitloop.dataset import Dataset
from bitloop.errors import DataError
from bitloop.frontend.torch_export import import_program, load_program
from bitloop.graph.ir import Conv
from bitloop.programs import save_program
from bitloop.quantize.training.policy import load_policy
from bitloop.quantize.training.score import integer_accuracy


@pytest.fixture(scope="module")
def folder(
    program: ExportedProgram, data: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("train")
    save_program(program, path / "net.pt2")
    np.savez(path / "d.npz", x=data.x, y=data.y)
    np.savez(path / "unlabelled.npz", x=data.x)
    (path / "policy.json").write_text('{"weight_bits": {"conv2": 2, "fc": 4}}')
    return path


def run(folder: Path, *arguments: str) -> Result:
    paths = [str(folder / a) if (folder / a).is_file() else a for a in arguments]
    return CliRunner().invoke(
        app, ["train", str(folder / "net.pt2"), "--epochs", "1", "--threads", "1", *paths]
    )


def test_train(folder: Path, data: Dataset) -> None:
    out = folder / "out.pt2"
    result = run(
        folder, "--data", "d.npz", "--eval", "d.npz", "--weights", "policy.json", "--batch", "16",
        "--json", "-o", str(out),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["steps"] == 3 and report["weight_bits"]["conv2"] == 2
    assert "epoch 1 of 1" in result.stderr and "0:00 left" in result.stderr
    program = load_program(out)
    assert report["accuracy"] == integer_accuracy(program, data)
    graph = import_program(program, "out")
    widths = {n.name: n.bits for n in graph.nodes if isinstance(n, Conv)}
    assert widths["conv2"] == 2 and widths["fc"] == 4 and widths["conv1"] == 8
    assert not out.with_name("out.pt2.checkpoint").exists()


def test_checkpoint_and_resume(folder: Path) -> None:
    kept = str(folder / "kept")
    common = ("--data", "unlabelled.npz", "--distill", "--checkpoint", kept, "-o")
    first = run(folder, *common, str(folder / "a.pt2"))
    assert first.exit_code == 0 and Path(kept).is_file()
    again = run(folder, *common, str(folder / "b.pt2"), "--resume")
    assert again.exit_code == 0 and "1 steps" in again.stdout
    other = run(folder, *common, str(folder / "c.pt2"), "--resume", "--seed", "4")
    assert other.exit_code == 2 and "trained with seed 0, not 4" in other.output
    assert not (folder / "c.pt2").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "unlabelled.npz"], "no labels y; give them, or distill"),
        (["--data", "missing.npz"], "missing.npz: No such file"),
        (["--data", "d.npz", "--weights", "9"], "weights: must have 2 to 8 bits, not 9"),
        (["--data", "d.npz", "--weights", "none.json"], "none.json: No such file"),
        (["--data", "d.npz", "--weights", "net.pt2"], "not a JSON policy"),
        (["--data", "d.npz", "--rate", "nan"], "rate: must be 0.0 to 100.0, not nan"),
    ],
)
def test_errors(folder: Path, arguments: list[str], message: str) -> None:
    result = run(folder, *arguments, "-o", str(folder / "never.pt2"))
    assert result.exit_code == 2 and message in result.output.replace("\n", " ")
    assert "Traceback" not in result.output and not (folder / "never.pt2").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "must be an object"),
        ("{}", "must be an object"),
        ('{"fc": 4.0}', "layer 'fc' must have 2 to 8 bits, not 4.0"),
        ('{"fc": true}', "not True"),
        ('{"fc": 1}', "not 1"),
        ("[" * 100_000, "not a JSON policy"),
        (" " * (2 << 20), "more than"),
    ],
)
def test_policies(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        load_policy(str(path))
