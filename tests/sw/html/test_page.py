# SPDX-License-Identifier: Apache-2.0
"""The page: well-formed, self-contained, and with the figures of the table."""

import dataclasses
import hashlib
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

from bitloop.account import account
from bitloop.compile import compile_graph
from bitloop.devices.interface import MemoryModel
from bitloop.html import Conditions, latency_page, write_page
from bitloop.hw.config import preset
from bitloop.report import latency_report
from bitloop.sim.cycle_model.device import ModelDevice
from bitloop.sim.random_graphs import random_graph

CONFIG = preset("n4")
MEMORY = MemoryModel(33, 2)
CONDITIONS = Conditions("folder/net.bitloop", MEMORY, 8)
VOID = {"meta", "br"}
CAUSES = ("compute", "weight_wait", "memory_wait", "drain")


def measured(binary):
    device = ModelDevice(CONFIG, MEMORY, record=True)
    device.load(binary)
    report = latency_report(binary, device.profile(), "model")
    return account(binary, report, device.timeline())


@pytest.fixture(scope="module")
def network():
    return compile_graph(random_graph(1, CONFIG.lanes, "network", 8), CONFIG)


@pytest.fixture(scope="module")
def found(network):
    return measured(network)


@pytest.fixture(scope="module")
def page(network, found):
    return latency_page(network, found, CONDITIONS)


def rows(page, table):
    """Texts of the cells of a table's body."""
    body = ElementTree.fromstring(page).find(f".//table[@id='{table}']/tbody")
    return [["".join(cell.itertext()).strip() for cell in row] for row in body]


def number(text):
    return int(text.replace(",", ""))


def test_the_table_has_the_figures_of_the_report(page, found):
    report = found.report
    head, *layers, tail, total = rows(page, "layers")
    assert (head[1], number(head[5])) == ("head", report.head)
    assert (tail[1], number(tail[5])) == ("tail", report.tail)
    assert number(total[5]) == report.cycles
    assert [number(cell) for cell in total[9:13]] == list(report.causes.values())
    for index, (row, layer) in enumerate(zip(layers, report.layers, strict=True)):
        bits = str(layer.weight_bits or "")
        assert row[:4] == [str(index), layer.name, layer.op, bits]
        assert (number(row[4]), number(row[5])) == (layer.macs, layer.cycles)
        assert row[7] == f"{layer.utilization:.1%}"
        assert sum(number(cell) for cell in row[9:13]) == layer.cycles


def test_the_bars_are_as_long_as_the_cycles(page, found):
    svg = ElementTree.fromstring(page).find(".//svg[@id='bars']")
    drawn: dict[tuple[str, str], tuple[int, float]] = {}
    for rect in svg.iter("rect"):
        name, cycles, cause = re.fullmatch(
            r"(.*): ([\d,]+) cycles (\w+)", rect.find("title").text
        ).groups()
        assert rect.get("class") == cause in CAUSES
        drawn[name, cause] = number(cycles), float(rect.get("width"))
    parts = {"head": found.head, "tail": found.tail}
    parts |= {layer.latency.name: layer.causes for layer in found.layers}
    expected = {
        (name, cause): cycles
        for name, causes in parts.items()
        for cause, cycles in causes.items()
        if cycles
    }
    assert {key: cycles for key, (cycles, _) in drawn.items()} == expected
    scales = [width / cycles for cycles, width in drawn.values() if cycles > 100]
    assert max(scales) < 1.01 * min(scales)
    steps = [number(line.find("title").text.split()[-2]) for line in svg.iter("line")]
    assert steps == [layer.steps for layer in found.layers]


def test_points_of_the_roofline_lie_where_their_figures_say(page, network, found):
    svg = ElementTree.fromstring(page).find(".//svg[@id='roofline']")
    points = list(svg.iter("circle"))
    multiplying = [layer for layer in found.layers if layer.latency.macs]
    assert len(points) == len(multiplying) + 1
    for point, layer in zip(points, multiplying, strict=False):
        text = point.find("title").text
        assert f"{layer.latency.macs / layer.latency.cycles:.2f} MACs a cycle" in text
        assert f"{layer.latency.macs / layer.bytes_one_way:.2f} MACs for each byte" in text
    # Logarithmic axes: equal ratios are equal distances.
    memory, *computes = [line.get("points").split() for line in svg.iter("polyline")]
    (x0, y0), (x1, y1) = [[float(v) for v in corner.split(",")] for corner in memory]
    assert x1 > x0 and y1 < y0
    heights = {corners[0].split(",")[1] for corners in computes}
    assert len(heights) == len({layer.latency.weight_bits or 8 for layer in found.layers})
    # The whole inference is slower than either roof.
    whole = points[-1]
    assert float(whole.get("cy")) > min(float(height) for height in heights)
    macs = sum(layer.latency.macs for layer in found.layers)
    rate = min(MEMORY.bytes_per_cycle, CONFIG.data_bits // 8)
    assert found.report.cycles * rate >= max(found.read_bytes, found.written_bytes)
    assert f"{macs / found.report.cycles:.2f} MACs a cycle" in whole.find("title").text


def test_nothing_outside_the_page_is_named(page):
    assert page.startswith("<!DOCTYPE html>\n<html")
    for word in ("http:", "https:", "src=", "href=", "url(", "@import", "<script", "<link"):
        assert word not in page


def test_html_elements_are_closed_in_order(page):
    class Checker(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open = []

        def handle_starttag(self, tag, attributes):
            if tag not in VOID:
                self.open.append(tag)

        def handle_startendtag(self, tag, attributes):
            assert tag in VOID or "svg" in self.open, tag

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    checker = Checker()
    checker.feed(page)
    assert checker.open == []


def test_what_it_takes_to_measure_again_is_said(page, network):
    conditions = dict(rows_of_conditions(page))
    assert conditions["binary"] == "folder/net.bitloop"
    digest = hashlib.sha256(network.to_bytes()).hexdigest()
    assert conditions["SHA-256 of the file"] == digest
    assert network.fingerprint in conditions["core"]
    assert "lanes=4" in conditions["its configuration"]
    assert "data_bits=32" in conditions["its configuration"]
    assert conditions["memory"].startswith("33 cycles to the first data, 2 bytes a cycle")
    assert "8 outstanding" in conditions["memory"]
    assert re.search(r"amaranth \d", conditions["versions"])
    assert "bitloop latency net.bitloop --device model --memory latency=33,bytes=2" in page


def rows_of_conditions(page):
    return [(row[0], row[1]) for row in rows(page, "conditions")]


def test_names_from_a_model_file_stay_text(network, found):
    name = "<script>&\"'\x00\N{SNOWMAN}]]>" + "x" * 100
    report = found.report
    layer = dataclasses.replace(report.layers[0], name=name)
    hostile = dataclasses.replace(
        found, layers=(dataclasses.replace(found.layers[0], latency=layer), *found.layers[1:])
    )
    page = latency_page(dataclasses.replace(network, name=name), hostile, CONDITIONS)
    shown = name.replace("\x00", "\N{REPLACEMENT CHARACTER}")
    assert rows(page, "layers")[1][1] == shown
    assert "<script>" not in page
    assert ElementTree.fromstring(page).find("./body/h1").text.startswith(shown)


def test_a_network_that_multiplies_nothing_has_no_roofline():
    for seed in range(20):
        binary = compile_graph(random_graph(seed, CONFIG.lanes, "maxpool", 8), CONFIG)
        found = measured(binary)
        if not any(layer.latency.macs for layer in found.layers):
            break
    page = latency_page(binary, found, CONDITIONS)
    assert "No layer multiplies." in page
    assert ElementTree.fromstring(page).find(".//svg[@id='roofline']") is None


def test_the_file_is_the_page(network, found, page, tmp_path):
    path = tmp_path / "new" / "r.html"
    write_page(path, network, found, CONDITIONS)
    assert path.read_text(encoding="utf-8") == page
