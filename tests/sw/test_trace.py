# SPDX-License-Identifier: Apache-2.0
"""The trace for Perfetto: every cycle and instruction in it, and the same from RTL and model."""

import json
from collections import defaultdict

import pytest

from bitloop.account import account
from bitloop.compile import compile_graph
from bitloop.devices.timeline import InstructionTime
from bitloop.hw.config import preset
from bitloop.hw.isa import Opcode, Queue
from bitloop.session import Session, open_device
from bitloop.sim.random_graphs import random_graph
from bitloop.trace import trace_document, unit_spans, write_trace

CONFIG = preset("n4")
TRACKS = {
    "layers", "cause of the cycle", "array", "loader", "storer",
    "sequencer, LOAD slot", "sequencer, COMPUTE slot", "sequencer, STORE slot",
}  # fmt: skip


def traced(binary, device):
    session = Session(binary, open_device(device, CONFIG, record=True))
    report, timeline = session.measure(), session.device.timeline()
    return report, trace_document(binary, account(binary, report, timeline), timeline)


def by_track(document):
    names, slices = {}, defaultdict(list)
    for event in document["traceEvents"]:
        if event["name"] == "thread_name":
            names[event["tid"]] = event["args"]["name"]
        elif event["ph"] == "X":
            slices[names[event["tid"]]].append(event)
    return slices


@pytest.fixture(scope="module")
def network():
    return compile_graph(random_graph(1, CONFIG.lanes, "network", 8), CONFIG)


def test_the_rtl_and_the_model_draw_the_same(network):
    (_, rtl), (_, model) = traced(network, "verilator"), traced(network, "model")
    assert rtl["traceEvents"] == model["traceEvents"]
    assert rtl["otherData"].pop("device") == "verilator"
    assert model["otherData"].pop("device") == "model"
    assert rtl == model


@pytest.mark.parametrize("seed", range(4))
def test_slices_fill_the_tracks(seed):
    binary = compile_graph(random_graph(seed, CONFIG.lanes, "network", 4), CONFIG)
    report, document = traced(binary, "model")
    tracks = by_track(document)
    assert set(tracks) == TRACKS
    for name, slices in tracks.items():
        end = 0
        for event in slices:
            assert event["ts"] >= end and event["dur"] > 0, name
            end = event["ts"] + event["dur"]
        assert end <= report.cycles
        if name in ("layers", "cause of the cycle"):
            assert sum(event["dur"] for event in slices) == report.cycles
    layers = [(event["name"], event["dur"]) for event in tracks["layers"]]
    parts = [("head", report.head), *((y.name, y.cycles) for y in report.layers)]
    assert layers == [part for part in [*parts, ("tail", report.tail)] if part[1]]
    for cause, cycles in report.causes.items():
        drawn = [event for event in tracks["cause of the cycle"] if event["name"] == cause]
        assert sum(event["dur"] for event in drawn) == cycles
        assert len({event["cname"] for event in drawn}) <= 1


def test_instructions_are_named_and_told(network):
    _, document = traced(network, "model")
    tracks = by_track(document)
    program = network.program(network.inference)[:-1]
    computes = [fields for opcode, fields in program if opcode is Opcode.COMPUTE]
    for event, fields in zip(tracks["array"], computes, strict=True):
        arguments = event["args"]
        assert event["name"] == f"COMPUTE {arguments['layer']}"
        assert arguments["groups"] == fields["groups"]
        assert arguments["rows"] == fields["output_height"]
        assert arguments["steps"] <= arguments["retired"] - arguments["taken"]
        assert arguments["mode"] in {"DENSE8", "DENSE4", "DENSE2", "DEPTHWISE", "WINDOW", "MAXIMUM"}
    assert tracks["loader"][0]["args"]["window"] == "INPUT"
    assert sum(event["args"]["written_bytes"] for event in tracks["storer"]) == sum(
        port.size for port in network.outputs
    )
    slots = [event for name, slices in tracks.items() if "slot" in name for event in slices]
    assert len(slots) == len(program)


def test_an_instruction_has_its_unit_alone():
    def times(queue):
        spans = ((0, 9, 30), (1, 12, 40), (10, 50, 60))
        return [InstructionTime(queue, 0, *span) for span in spans]

    assert list(unit_spans(times(Queue.LOAD))) == [(9, 30), (30, 40), (50, 60)]
    assert list(unit_spans(times(Queue.COMPUTE))) == [(9, 12), (12, 40), (50, 60)]
    assert list(unit_spans([])) == []


def test_the_file_is_json_and_replaced_whole(network, tmp_path):
    session = Session(network, open_device("model", CONFIG, record=True))
    report, timeline = session.measure(), session.device.timeline()
    found = account(network, report, timeline)
    path = tmp_path / "new" / "t.json"
    write_trace(path, network, found, timeline)
    assert json.loads(path.read_text()) == trace_document(network, found, timeline)
    assert [p.name for p in path.parent.iterdir()] == ["t.json"]
