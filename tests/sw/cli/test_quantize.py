# SPDX-License-Identifier: Apache-2.0
"""`bitloop quantize`: methods, repairs, the report, and what the core does not have."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from bitloop.cli import app
from bitloop.frontend.torch_export import import_program, load_program
from bitloop.graph.ir import Conv


def invoke(network, *arguments):
    base = ["quantize", network.float, "--data", network.data]
    return CliRunner().invoke(app, [str(a) for a in (*base, *arguments)])


def test_report(network, tmp_path):
    out = tmp_path / "q.pt2"
    result = invoke(network, "--weights", 4, "--method", "mse", "--report", "-o", out)
    assert result.exit_code == 0, result.output
    rows = [line.split("│") for line in result.stdout.splitlines() if line.startswith("│")]
    assert sorted(row[1].strip() for row in rows) == ["0", "4"]
    ratios = [float(row[3]) for row in rows]
    assert ratios == sorted(ratios) and ratios[0] > 5
    assert "accuracy on these inputs" in result.stdout and f"wrote {out}" in result.stdout
    assert result.stderr.count("note:") == 0
    graph = import_program(load_program(out), "net")
    assert {node.bits for node in graph.nodes if isinstance(node, Conv)} == {4}


def test_json_and_notes(network, tmp_path):
    out, policy = tmp_path / "q.pt2", tmp_path / "bits.json"
    policy.write_text(json.dumps({"0": 3}))
    options = ["--weights", policy, "--activations", 5, "--symmetric", "--weight-method", "max"]
    result = invoke(network, *options, "--repair", "bias-correction", "--json", "-o", out)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["weight_bits"] == {"0": 3, "4": 8}
    assert {layer["layer"]: layer["bits"] for layer in found["layers"]} == {"0": 3, "4": 8}
    assert 0 <= found["accuracy"] <= 1 and found["images_per_second"] > 0
    assert len(found["notes"]) == 2
    assert "3-bit weights are a simulation: the core has widths 2, 4, 8" in result.stderr
    assert "runs them as 4-bit" in result.stderr
    assert "5-bit activations are a simulation" in result.stderr


def test_shift_only_and_repairs(network, tmp_path):
    out = tmp_path / "q.pt2"
    options = ["--shift-only", "--per-tensor", "--repair", "equalize", "--repair", "batch-norm"]
    assert invoke(network, *options, "-o", out).exit_code == 0
    graph = import_program(load_program(out), "net")
    assert all(np.log2(spec.scale) % 1 == 0 for spec in graph.tensors.values())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "median"], ["median", "minmax"]),
        (["--method", "percentile:x"], ["number"]),
        (["--weight-method", "median"], ["median", "ocs-clip"]),
        (["--repair", "magic"], ["magic", "equalize"]),
        (["--weights", "9"], ["2 to 8", "9"]),
        (["--weights", "none.json"], ["none.json"]),
    ],
)
def test_bad_options_are_one_message(network, options, words, tmp_path):
    out = tmp_path / "q.pt2"
    result = invoke(network, *options, "-o", out)
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert all(word in result.stderr.split("bitloop: ")[1] for word in words), result.stderr
    assert not out.exists()
