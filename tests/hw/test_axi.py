# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from amaranth.back import verilog
from amaranth.hdl import Module
from amaranth.lib import wiring

from bitloop.hw.axi import axi_lite_signature, axi_read_signature, connect_flat, flat_ports
from bitloop.hw.config import preset
from bitloop.hw.read_engine import ReadEngine
from bitloop.hw.register_file import RegisterFile


class Top(wiring.Component):
    def __init__(self) -> None:
        self.bits = preset("n4").data_bits
        super().__init__(
            {
                **flat_ports("m_axi", axi_read_signature(self.bits)),
                **flat_ports("s_axil", axi_lite_signature(), flip=True),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.engine = engine = ReadEngine(preset("n4"))
        m.submodules.registers = registers = RegisterFile(preset("n4"))
        connect_flat(m, self, "m_axi", engine.axi)
        connect_flat(m, self, "s_axil", registers.axi)
        return m


@pytest.mark.parametrize(
    ("port", "direction", "width"),
    [
        ("m_axi_araddr", "output", 32),
        ("m_axi_arready", "input", 1),
        ("m_axi_rdata", "input", 32),
        ("m_axi_rready", "output", 1),
        ("s_axil_awaddr", "input", 12),
        ("s_axil_wstrb", "input", 4),
        ("s_axil_awready", "output", 1),
        ("s_axil_rdata", "output", 32),
        ("s_axil_bready", "input", 1),
    ],
)
def test_ports_have_their_usual_names(port: str, direction: str, width: int) -> None:
    text = verilog.convert(Top(), name="top", emit_src=False)
    span = f"[{width - 1}:0] " if width > 1 else ""
    assert f"{direction} {span}{port};" in text
    top = text[text.rindex("\nmodule top(") :]
    assert "__" not in top[: top.index(")")]
