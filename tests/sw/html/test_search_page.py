# SPDX-License-Identifier: Apache-2.0
"""The search's page: complete, self-contained, safe with hostile names, the same twice."""

import dataclasses
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from bitloop.html.search_page import search_page, write_search_page
from bitloop.search.result import Evidence, Point, SearchedLayer, SearchResult

NAMES = ("stem", "<script>alert(1)</script>", "$\\frac{", "d\x07\x1b[31m")
COMMAND = "bitloop search 'my net.pt2' --budget-ratio 0.5"


def a_result(accuracy=0.9, names=NAMES, **changes):
    cycles = {name: {8: 800 + i, 4: 400 + i, 2: 200 + i} for i, name in enumerate(names)}
    cycles[names[-1]] = {8: 500, 4: 500, 2: 500}
    losses = {name: {8: 0.0, 4: 0.01 * (i + 1), 2: 0.5} for i, name in enumerate(names)}

    def point(label, bits, whole=7):
        choice = dict.fromkeys(names, bits)
        total = sum(table[bits] for table in cycles.values())
        loss = sum(table[bits] for table in losses.values())
        return Point(label, choice, total + whole, total, 100 * bits, loss, accuracy, 0.1)

    evidence = Evidence(
        "kl", losses, cycles, 12, dict.fromkeys(names, 1000), 512, 256, 5000, 3,
        {"float program": "ab" * 32}, {"device": "model", "core": "n4"}, {"lanes": 4},
    )  # fmt: skip
    fields = dict(
        layers=tuple(SearchedLayer(n, 4, cycles[n][4]) for n in names),
        cycles=1707, cycles_sum_of_layers=1700, cycles_uniform8=2900,
        accuracy_float=accuracy, accuracy_uniform8=accuracy, accuracy=accuracy,
        evaluations=9, program=None, weight_bytes=400, limits={"cycles": 1800}, measured=4,
        device="model", uniform=tuple(point(f"uniform {b}", b) for b in (8, 4, 2)),
        front=tuple(point(f"front {i}", b, 3) for i, b in enumerate((2, 4, 8))),
        proxies=(point("BitOps 0", 4, 9),), rivals=(point("greedy", 4, 11),), evidence=evidence,
    )  # fmt: skip
    return SearchResult(**{**fields, **changes})


@pytest.fixture(scope="module")
def page():
    return search_page(a_result(), COMMAND)


def test_the_page_is_well_formed_and_has_all_figures_and_tables(page):
    root = ElementTree.fromstring(page)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    for name in ("front", "bits", "sensitivity", "error", "uniform", "pareto", "proxies", "rivals",
                 "layers", "conditions"):  # fmt: skip
        assert ids.count(name) == 1, name
    assert len(ids) == len(set(ids))
    text = " ".join("".join(root.itertext()).split())
    for figure in ("1,707", "2,900", "1.70 times faster", "90.00%", COMMAND, "ab" * 32, "seed"):
        assert figure in text
    assert "greedy" in text and "BitOps 0" in text


def test_the_page_refers_to_nothing_outside_it(page):
    class Parser(HTMLParser):
        def handle_starttag(self, tag, attributes):
            assert tag not in ("script", "link", "iframe", "img", "object", "embed")
            for name, value in attributes:
                if name in ("src", "href", "xlink:href"):
                    assert value.startswith("#"), (tag, name, value)

    Parser().feed(page)
    assert not re.search(r"url\((?!#)", page) and "@import" not in page


def test_the_same_result_makes_the_same_page(page):
    assert search_page(a_result(), COMMAND) == page


def test_names_from_model_files_do_no_harm(page):
    assert "<script" not in page and "\x1b" not in page and "\x07" not in page
    assert "&lt;script&gt;" in page


def test_flat_layers_are_named(page):
    assert "100%" in page
    none = a_result(names=("a", "b"))
    evidence = dataclasses.replace(
        none.evidence, cycles={name: {8: 800, 4: 400, 2: 200} for name in ("a", "b")}
    )
    assert "misjudges" not in search_page(dataclasses.replace(none, evidence=evidence), "x")
    assert "misjudges" in page


@pytest.mark.parametrize(
    "changes",
    [
        {"accuracy": None},
        {"front": (), "proxies": (), "rivals": ()},
        {"limits": {"weight_bytes": 500}, "megahertz": 50.0, "verified": "verilator"},
        {"complete": False},
    ],
    ids=["no labels", "no front", "bytes and a clock", "interrupted"],
)
def test_the_page_can_say_less(changes, tmp_path):
    path = tmp_path / "r.html"
    write_search_page(path, a_result(**changes), COMMAND)
    ElementTree.parse(path)
