# SPDX-License-Identifier: Apache-2.0
"""The bare core with AXI ports, packaged for other tools and boards: plain Verilog, IP-XACT for
Vivado, a driver for PYNQ, a module for LiteX."""

from __future__ import annotations

from pathlib import Path

from bitloop.files import write_if_changed
from bitloop.hw.config import CoreConfig

from . import ipxact, litex

__all__ = ["write_package"]


def write_package(config: CoreConfig, folder: Path) -> list[Path]:
    """Write the core's package into `folder`; files that would not change are left alone.

    `hdl/bitloop_core.v` and `.json` (its description), `component.xml`, `bitloop_litex.py` and
    `bitloop_pynq.py`. Returns their paths.
    """
    import json

    from bitloop.hw.verilog import describe, emit

    description = describe(config)
    texts = {
        ipxact.VERILOG_FILE: emit(config),
        "hdl/bitloop_core.json": json.dumps(description, indent=2) + "\n",
        "component.xml": ipxact.component(config, description),
        "bitloop_litex.py": litex.module(config, description),
        "bitloop_pynq.py": Path(__file__).with_name("pynq.py").read_text(),
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_if_changed(folder / name, text)
    return [folder / name for name in texts]
