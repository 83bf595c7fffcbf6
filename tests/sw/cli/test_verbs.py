# SPDX-License-Identifier: Apache-2.0
"""The verbs on a small network: what they write and print, and what they refuse."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import bitloop
from bitloop.binary import Binary
from bitloop.programs import export_module, save_program

from .test_cli import assert_refused, invoke


def test_quantize_and_compile_write_their_files(network, tmp_path):
    quantized, binary = tmp_path / "q.pt2", tmp_path / "net.bitloop"
    arguments = [network.float, "--data", network.data, "--weights", "4", "-o", quantized]
    assert invoke("quantize", *arguments).exit_code == 0
    result = invoke("compile", quantized, "--preset", "n4", "--set", "data_bits=64", "-o", binary)
    assert result.exit_code == 0, result.output
    loaded = Binary.load(binary)
    assert loaded.config.data_bits == 64
    assert [layer.weight_bits for layer in loaded.layers if layer.op in ("conv", "linear")] == [
        4,
        4,
    ]


def test_inspect_shows_layers_and_program(network):
    text = invoke("inspect", network.binary).stdout
    for word in ("n4", "maxpool", "linear", "COMPUTE", "LOAD_ACTIVATIONS", "HALT"):
        assert word in text
    found = json.loads(invoke("inspect", network.binary, "--json").stdout)
    assert [layer["op"] for layer in found["layers"]] == ["conv", "maxpool", "linear"]


def test_run_floats_equals_the_quantized_program_within_a_code(network, tmp_path):
    output = tmp_path / "y.npy"
    result = invoke("run", network.binary, "--input", network.input, "--output", output, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["images"] == 4
    from bitloop.programs import run_program

    expected = run_program(bitloop.quantize(network.float, network.x), network.x[:4])
    scale = Binary.load(network.binary).output_specs[0].scale
    assert np.abs(np.load(output) - expected).max() <= 1.01 * scale


def test_run_raw_codes_agrees_with_floats(network, tmp_path):
    specs = Binary.load(network.binary)
    spec, out = specs.input_specs[0], specs.output_specs[0]
    codes = np.clip(np.rint(network.x[:4] / np.float32(spec.scale)) + spec.zero_point, 0, 255)
    np.save(tmp_path / "x.npy", codes.astype(spec.source_dtype))
    raw, floats = tmp_path / "raw.npy", tmp_path / "floats.npy"
    arguments = ["--input", tmp_path / "x.npy", "--output", raw, "--raw"]
    assert invoke("run", network.binary, *arguments).exit_code == 0
    invoke("run", network.binary, "--input", network.input, "--output", floats)
    found = np.load(raw)
    assert found.dtype == np.uint8 and found.shape == (4, 3)
    real = (found.astype(np.float32) - out.zero_point) * np.float32(out.scale)
    assert np.allclose(real, np.load(floats))


def test_the_rtl_runs_searches_and_reports(network, tmp_path):
    rtl, reference = tmp_path / "rtl.npy", tmp_path / "reference.npy"
    for device, path in (("verilator", rtl), ("reference", reference)):
        arguments = ["--input", network.input, "--output", path, "--device", device]
        assert invoke("run", network.binary, *arguments).exit_code == 0
    assert (np.load(rtl) == np.load(reference)).all()

    found = json.loads(invoke("latency", network.binary, "--json").stdout)
    assert (found["preset"], found["device"]) == ("n4", "verilator")
    assert list(found["causes"]) == ["compute", "weight_wait", "memory_wait", "drain"]
    assert sum(found["causes"].values()) == found["cycles"]
    layers = sum(layer["cycles"] for layer in found["layers"])
    assert found["head"] + layers + found["tail"] == found["cycles"]
    assert list(found["layers"][0]) == [
        "name", "op", "weight_bits", "macs", "cycles", "utilization",
    ]  # fmt: skip
    assert all(0 <= layer["utilization"] <= 1 for layer in found["layers"])
    slow = invoke("latency", network.binary, "--memory", "latency=400,bytes=1", "--json")
    assert json.loads(slow.stdout)["cycles"] > found["cycles"]
    assert "conv" in invoke("latency", network.binary).stdout

    mixed = tmp_path / "mixed.pt2"
    arguments = ["--data", network.data, "--preset", "n4", "-o", mixed, "--json"]
    result = invoke("search", network.float, *arguments, "--budget-ratio", "0.8")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["cycles"] <= 0.8 * answer["cycles_uniform8"]
    assert bitloop.measure(bitloop.compile(mixed, preset="n4")).cycles == answer["cycles"]


def test_verilog_is_rewritten_only_when_it_changed(tmp_path):
    path = tmp_path / "build" / "core.v"
    assert invoke("verilog", "--preset", "n4", "-o", path).exit_code == 0
    description = json.loads(path.with_suffix(".json").read_text())
    assert description["config"]["lanes"] == 4
    assert {"clk", "rst"} <= {port["name"] for port in description["ports"]}
    stamp = path.stat().st_mtime_ns, path.stat().st_ino
    assert "unchanged" in invoke("verilog", "--preset", "n4", "-o", path).stdout
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == stamp
    invoke("verilog", "--preset", "n4", "--target", "ecp5", "-o", path)
    assert "CCU2C" in path.read_text()


class Unsupported(nn.Module):
    def forward(self, x):
        return torch.cumsum(x, 1)


def test_what_cannot_work_is_said_and_leaves_nothing(network, tmp_path):
    out = tmp_path / "out"
    junk = tmp_path / "junk"
    junk.write_bytes(b"not what it should be")
    unsupported = tmp_path / "unsupported.pt2"
    save_program(export_module(Unsupported(), network.x), unsupported)
    wrong = tmp_path / "wrong.npz"
    np.savez(wrong, x=np.zeros((4, 1, 5, 6), np.float32))
    cases = [
        (["quantize", junk, "--data", network.data, "-o", out], ["junk"]),
        (["quantize", network.float, "--data", junk, "-o", out], ["junk", ".npz"]),
        (["quantize", network.float, "--data", wrong, "-o", out], ["(4, 1, 5, 6)"]),
        (["quantize", network.quantized, "--data", network.data, "-o", out], ["quantized"]),
        (["quantize", unsupported, "--data", network.data, "-o", out], ["cumsum"]),
        (["compile", junk, "-o", out], ["junk"]),
        (["compile", network.float, "-o", out], ["bitloop quantize"]),
        (["compile", network.quantized, "--set", "weight_rows=8", "-o", out], ["weight_rows"]),
        (["search", network.float, "--data", network.data, "--preset", "n4", "-o", out,
          "--budget-ratio", "2"], ["ratio 2"]),
        (["search", network.float, "--data", network.data, "--preset", "n4", "-o", out],
         ["one budget"]),
        (["search", network.quantized, "--data", network.data, "--preset", "n4", "-o", out,
          "--budget-ratio", "0.5"], ["quantized already"]),
        (["latency", network.binary, "--device", "reference"], ["no notion of time"]),
        (["latency", network.float], ["zip archive", ".pt2"]),
        (["search", network.float, "--data", network.data, "--device", "reference", "-o", out,
          "--budget-ratio", "0.5"], ["no notion of time"]),
        (["quantize", network.float, "--data", network.data, "--weights", "four", "-o", out],
         ["four: No such file", "2 to 8"]),
    ]  # fmt: skip
    for arguments, words in cases:
        assert_refused(invoke(*arguments), *words)
        assert not out.exists()


def test_nothing_written_replaces_what_is_read(network, tmp_path):
    data = ["--data", network.data]
    same = tmp_path / "same"
    for arguments, words in [
        (["quantize", network.float, *data, "-o", network.float], ["NET.pt2 and --output"]),
        (["quantize", network.float, *data, "-o", network.data], ["--data and --output"]),
        (["train", network.float, *data, "-o", same, "--checkpoint", same], ["--checkpoint"]),
        (["search", network.float, *data, "-o", same, "--html", same], ["--output and --html"]),
        (
            ["search", network.float, *data, "--eval", network.input, "-o", network.input],
            ["--eval"],
        ),
        (["compile", network.quantized, "-o", network.quantized], ["MODEL and --output"]),
        (["run", network.binary, "--input", network.input, "--output", network.input], ["--input"]),
    ]:
        assert_refused(invoke(*arguments), *words, "file of its own")
    assert not same.exists()
    Binary.load(network.binary)


@pytest.mark.parametrize("verb", ["run", "latency", "inspect"])
def test_damaged_and_foreign_binaries_are_refused(network, tmp_path, verb):
    whole = network.binary.read_bytes()
    out = tmp_path / "y.npy"
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    rest = ["--input", network.input, "--output", out] if verb == "run" else []
    for content in (b"", whole[: len(whole) // 2], whole[:-1], bytes(flipped), whole + b"x"):
        path = tmp_path / "damaged.bitloop"
        path.write_bytes(content)
        assert_refused(invoke(verb, path, *rest), "damaged.bitloop")
    if verb != "inspect":
        assert_refused(invoke(verb, network.binary, *rest, "--preset", "n8"), "n4", "n8")
        assert_refused(invoke(verb, network.binary, *rest, "--set", "data_bits=64"), "n4")
    assert not out.exists()


@pytest.mark.parametrize(
    ("array", "options", "word"),
    [
        (np.zeros((4, 1, 6, 7), np.float32), [], "(4, 1, 6, 7)"),
        (np.zeros((4, 36), np.float32), [], "(batch, 1, 6, 6)"),
        (np.zeros((4, 1, 6, 6), np.uint8), [], "--raw"),
        (np.zeros((4, 1, 6, 6), np.float32), ["--raw"], "uint8"),
        (np.full((4, 1, 6, 6), np.nan, np.float32), [], "finite"),
        (np.array(1.0, np.float32), [], "()"),
    ],
)
def test_wrong_inputs_are_refused(network, tmp_path, array, options, word):
    np.save(tmp_path / "x.npy", array)
    out = tmp_path / "y.npy"
    arguments = ["--input", tmp_path / "x.npy", "--output", out, *options]
    assert_refused(invoke("run", network.binary, *arguments), word)
    assert not out.exists()
