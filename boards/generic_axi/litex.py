# SPDX-License-Identifier: Apache-2.0
"""The core as a module for LiteX: an AXI4 master, an AXI4-Lite slave, the Verilog as its source."""

from __future__ import annotations

from typing import Any

from bitloop.hw.config import CoreConfig

from .ipxact import MASTER, SLAVE, VERILOG_FILE

_AXI_CHANNELS = ("aw", "w", "b", "ar", "r")


def module(config: CoreConfig, description: dict[str, Any]) -> str:
    """Python of `BitloopCore`, for a SoC of LiteX; `description` is that of `hw.verilog.describe`.

    In a SoC: `soc.bus.add_slave("bitloop", core.registers, SoCRegion(size=core.registers_size,
    cached=False))` and `soc.dma_bus.add_master("bitloop", core.memory)`.
    """
    lines = [
        "# SPDX-License-Identifier: Apache-2.0",
        f'"""Bitloop core, config {config.name}, fingerprint {config.fingerprint}, for LiteX."""',
        "",
        "import os",
        "",
        "from litex.gen import LiteXModule",
        "from litex.soc.interconnect import axi",
        "from migen import ClockSignal, Instance, ResetSignal",
        "",
        "",
        "class BitloopCore(LiteXModule):",
        '    """`memory` is an AXI4 master, `registers` an AXI4-Lite slave; both in `sys`."""',
        "",
        f"    registers_size = {1 << description['axi_lite']['address_bits']}",
        "",
        "    def __init__(self, platform):",
        "        self.memory = memory = axi.AXIInterface(",
        f"            data_width={description['axi']['data_bits']}, "
        f"address_width={description['axi']['address_bits']}, id_width=1",
        "        )",
        "        self.registers = registers = axi.AXILiteInterface(",
        f"            data_width=32, address_width={description['axi_lite']['address_bits']}",
        "        )",
        "        self.specials += Instance(",
        f'            "{description["module"]}",',
        '            i_clk=ClockSignal("sys"),',
        '            i_rst=ResetSignal("sys"),',
    ]
    for port in description["ports"]:
        prefix, _, wire = port["name"].rpartition("_")
        if prefix not in (MASTER, SLAVE):
            continue
        side = "o" if port["direction"] == "output" else "i"
        interface = "memory" if prefix == MASTER else "registers"
        channel = next(c for c in _AXI_CHANNELS if wire.startswith(c))
        field = wire.removeprefix(channel)
        lines.append(f"            {side}_{port['name']}={interface}.{channel}.{field},")
    lines += [
        "        )",
        "        here = os.path.dirname(os.path.abspath(__file__))",
        f'        platform.add_source(os.path.join(here, "{VERILOG_FILE}"))',
        "",
    ]
    return "\n".join(lines)
