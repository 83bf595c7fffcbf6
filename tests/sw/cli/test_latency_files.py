# SPDX-License-Identifier: Apache-2.0
"""`bitloop latency --trace` and `--html`: what they write, and what they refuse."""

import json
import xml.etree.ElementTree as ElementTree

from bitloop.binary import Binary

from .test_cli import assert_refused, invoke


def test_rtl_and_model_write_the_same(network, tmp_path):
    pages, traces = [], []
    for device in ("verilator", "model"):
        trace, html = tmp_path / f"{device}.json", tmp_path / f"{device}.html"
        files = ["--trace", trace, "--html", html]
        result = invoke("latency", network.binary, "--device", device, *files)
        assert result.exit_code == 0, result.output
        assert f"wrote {trace}" in result.stdout and f"wrote {html}" in result.stdout
        assert f"({device})" in result.stdout
        traces.append(json.loads(trace.read_text())["traceEvents"])
        pages.append(html.read_text().replace("verilator)", "model)"))
        ElementTree.fromstring(pages[-1])
    assert traces[0] == traces[1]
    tables = [page[page.index("<table") : page.index("To measure")] for page in pages]
    assert tables[0] == tables[1]


def test_the_files_are_of_the_inference_reported(network, tmp_path):
    trace = tmp_path / "t.json"
    arguments = ["--device", "model", "--trace", trace, "--json", "--memory", "latency=90,bytes=1"]
    result = invoke("latency", network.binary, *arguments)
    found = json.loads(result.stdout)
    events = json.loads(trace.read_text())["traceEvents"]
    for cause, cycles in found["causes"].items():
        drawn = [event for event in events if event["ph"] == "X" and event["name"] == cause]
        assert sum(event["dur"] for event in drawn) == cycles


def test_verify_writes_what_the_rtl_did(network, tmp_path):
    trace = tmp_path / "t.json"
    result = invoke("latency", network.binary, "--verify", "--trace", trace)
    assert result.exit_code == 0, result.output
    assert json.loads(trace.read_text())["otherData"]["device"] == "verilator"


def test_what_cannot_be_written_is_said(network, tmp_path):
    folder, same = tmp_path / "folder", tmp_path / "same"
    folder.mkdir()
    cases = [
        (["--trace", folder], [folder, "directory"]),
        (["--html", folder / ".." / "folder"], ["folder", "directory"]),
        (["--trace", same, "--html", same], ["--trace and --html", same]),
        (["--html", network.binary], ["NET.bitloop and --html", network.binary]),
        (["--trace", same, "--device", "reference"], ["no notion of time"]),
    ]
    for arguments, words in cases:
        assert_refused(invoke("latency", network.binary, *arguments), *words)
    assert sorted(tmp_path.iterdir()) == [folder]
    Binary.load(network.binary)
