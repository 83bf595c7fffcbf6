# SPDX-License-Identifier: Apache-2.0
"""The core as Verilog text, and a description of it for other tools."""

from __future__ import annotations

import dataclasses
from typing import Any

from amaranth.back import verilog
from amaranth.hdl import Shape

from .array import column_verilog
from .axi import BUS_ADDRESS_BITS
from .config import CoreConfig
from .core import Core
from .isa import ISA_VERSION
from .registers import ADDRESS_BITS as REGISTER_ADDRESS_BITS
from .registers import REGISTERS

TOP = "bitloop_core"
"""Module name of the core."""

COLUMN = "bitloop_column"
"""Module name of a column: one text for all of them."""


def emit(config: CoreConfig, target: str = "generic") -> str:
    """Plain Verilog-2001 of the core, module `bitloop_core`; the same text for the same arguments.

    `target` is `generic`, or `ecp5` for products built from ECP5 carry cells.
    """
    header = (
        f"// Bitloop core, config {config.name}, fingerprint {config.fingerprint}, "
        f"target {target}\n// SPDX-License-Identifier: Apache-2.0\n"
    )
    core = Core(config, target, column_module=COLUMN)
    text = verilog.convert(core, name=TOP, emit_src=False, strip_internal_attrs=True)
    return header + text + column_verilog(config, target, COLUMN)


def describe(config: CoreConfig, target: str = "generic") -> dict[str, Any]:
    """Ports, registers, config and fingerprint of what `emit` writes, ready for JSON."""
    core = Core(config, target)
    core._MustUse__silence = True  # asked for its ports only, never elaborated
    ports = [
        {
            "name": name,
            "direction": "output" if member.flow.name == "Out" else "input",
            "width": _width(member),
        }
        for name, member in core.signature.members.items()
    ]
    return {
        "module": TOP,
        "target": target,
        "fingerprint": config.fingerprint,
        "isa_version": ISA_VERSION,
        "config": dataclasses.asdict(config),
        "clock": "clk",
        "reset": {"name": "rst", "active": "high", "synchronous": True},
        "axi": {"address_bits": BUS_ADDRESS_BITS, "data_bits": config.data_bits},
        "axi_lite": {"address_bits": REGISTER_ADDRESS_BITS, "data_bits": 32},
        "ports": [
            {"name": "clk", "direction": "input", "width": 1},
            {"name": "rst", "direction": "input", "width": 1},
            *ports,
        ],
        "registers": [
            {
                "name": register.name,
                "address": register.address,
                "access": register.access.value,
                "description": register.doc,
            }
            for register in REGISTERS
        ],
        "block_rams": config.block_rams,
        "multipliers": config.multipliers,
    }


def _width(member: Any) -> int:
    return Shape.cast(member.shape).width
