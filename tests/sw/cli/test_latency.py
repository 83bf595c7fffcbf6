# SPDX-License-Identifier: Apache-2.0
"""`bitloop latency` on the cycle model, and its comparison with the RTL."""

import dataclasses
import json

from bitloop.sim.cycle_model.device import ModelDevice

from .test_cli import invoke


def test_the_model_reports_the_cycles_of_the_rtl(network):
    arguments = ["latency", network.binary, "--memory", "latency=17,bytes=2", "--json"]
    model = json.loads(invoke(*arguments, "--device", "model").stdout)
    measured = json.loads(invoke(*arguments, "--device", "verilator").stdout)
    assert model.pop("device") == "model" and measured.pop("device") == "verilator"
    assert model == measured


def test_verify_passes_where_both_agree(network):
    result = invoke("latency", network.binary, "--verify")
    assert result.exit_code == 0, result.output
    assert "(verilator)" in result.stdout and "(model)" in result.stdout
    assert "agree in every counter" in result.stdout
    found = json.loads(invoke("latency", network.binary, "--verify", "--json").stdout)
    assert (found["equal"], found["difference"]) == (True, None)
    assert found["model"]["cycles"] == found["verilator"]["cycles"]


def test_verify_fails_where_they_differ(network, monkeypatch):
    right = ModelDevice.profile

    def wrong(device):
        profile = right(device)
        first, *others = profile.layer_cycles
        return dataclasses.replace(
            profile, cycles=profile.cycles + 1, layer_cycles=(first + 1, *others)
        )

    monkeypatch.setattr(ModelDevice, "profile", wrong)
    result = invoke("latency", network.binary, "--verify")
    assert result.exit_code == 1
    assert "layer 0 (" in result.stdout and "on verilator" in result.stdout


def test_the_model_runs_images(network, tmp_path):
    import numpy as np

    outputs = []
    for device in ("reference", "model"):
        path = tmp_path / f"{device}.npy"
        arguments = ["--input", network.input, "--output", path, "--device", device, "--json"]
        found = json.loads(invoke("run", network.binary, *arguments).stdout)
        assert (found["cycles"] is None) == (device == "reference")
        outputs.append(np.load(path))
    assert (outputs[0] == outputs[1]).all()
