# SPDX-License-Identifier: Apache-2.0
"""`bitloop sensitivity` on a small network: what it prints, and what it refuses."""

import json

import numpy as np
import pytest

from bitloop.cli.sensitivity import NAMES, heat, loss_table
from bitloop.search.sensitivity import METHODS

from .test_cli import assert_refused, invoke

LAYERS = ["0", "4"]


def test_the_help_lists_every_method():
    assert tuple(METHODS) == NAMES


def test_losses_of_every_method_as_json(network):
    options = [part for name in NAMES for part in ("--method", name)]
    result = invoke("sensitivity", network.float, "--data", network.data, *options, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert list(found) == ["methods"] and tuple(found["methods"]) == NAMES
    for table in found["methods"].values():
        assert list(table) == LAYERS
        assert all(list(row) == ["8", "4", "2"] and row["8"] == 0 for row in table.values())
        assert all(row["4"] <= row["2"] for row in table.values())


def test_the_table_has_a_row_a_layer_and_the_default_is_kl(network):
    result = invoke("sensitivity", network.float, "--data", network.data, "--widths", "3,8")
    assert result.exit_code == 0, result.output
    assert "kl" in result.stdout and "3 bits" in result.stdout
    assert "8 bits" not in result.stdout


def test_comparison_runs_policies_on_other_images(network, tmp_path):
    other = tmp_path / "e.npz"
    np.savez(other, x=network.x[:6], y=np.arange(6) % 3)
    arguments = [network.float, "--data", network.data, "--compare", "8", "--fixed", "0", "--json"]
    arguments += ["--method", "kl", "--method", "entropy"]
    result = invoke("sensitivity", *arguments, "--eval", other)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["comparison"]
    assert found["loss"] == "cross-entropy" and list(found["spearman"]) == ["kl", "entropy"]
    assert len(found["policies"]) == len(found["losses"]) == len(found["sums"]["kl"]) == 8
    assert all(policy["0"] == 8 and policy["4"] in (8, 4, 2) for policy in found["policies"])
    halves = json.loads(invoke("sensitivity", *arguments).stdout)["comparison"]
    assert halves["policies"] == found["policies"] and halves["losses"] != found["losses"]


def test_the_comparison_is_printed(network):
    result = invoke("sensitivity", network.float, "--data", network.data, "--compare", "5")
    assert result.exit_code == 0, result.output
    assert "5 random policies" in result.stdout and "Spearman" in result.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "magic"], ["magic", "kl", "alps"]),
        (["--widths", "8"], ["--widths", "2 to 8"]),
        (["--widths", "8,9"], ["--widths", "2 to 8"]),
        (["--compare", "5", "--fixed", "stem"], ["stem", "0, 4"]),
    ],
)
def test_what_makes_no_sense_is_refused(network, options, words):
    result = invoke("sensitivity", network.float, "--data", network.data, *options)
    assert_refused(result, *words)


def test_labels_are_asked_for(network, tmp_path):
    np.savez(tmp_path / "d.npz", x=network.x)
    arguments = ["--data", tmp_path / "d.npz", "--method", "alps"]
    assert_refused(invoke("sensitivity", network.float, *arguments), "alps", "labels")


def test_quantized_programs_are_refused(network):
    assert_refused(invoke("sensitivity", network.quantized, "--data", network.data), "already")


def test_heat_goes_from_the_least_to_the_largest_loss():
    table = loss_table({"kl": {"a": {8: 0.0, 4: 0.0, 2: 1e-4}, "b": {8: 0.0, 4: 1e-2, 2: 1.0}}})
    assert table.row_count == 2
    colours = [str(heat(value, (1e-4, 1.0)).style) for value in (0.0, 1e-4, 1e-2, 1.0)]
    assert colours[0] == colours[1] == "white on rgb(40,40,110)"
    assert colours[2] == "white on rgb(130,40,55)" and colours[3] == "white on rgb(220,40,0)"
