# SPDX-License-Identifier: Apache-2.0
"""A small design through synthesis, placement and routing; the wrapper of a core."""

import pytest

from bitloop.boards.bare_core import CONSTRAINTS, WRAPPER, wrapped
from bitloop.boards.flow import Design, route, synthesize
from bitloop.boards.targets.parts import LFE5U_25F_381
from bitloop.errors import DeviceError
from bitloop.hw.config import preset
from bitloop.hw.verilog import describe

ADDER = """
module bitloop_column(input clk, input [15:0] a, output reg [15:0] q);
always @(posedge clk) q <= q + a;
endmodule
module top(input clk, input rst, input in, output out);
reg [15:0] shifted;
wire [31:0] q;
always @(posedge clk) shifted <= {shifted, in};
bitloop_column first(.clk(clk), .a(shifted), .q(q[15:0]));
bitloop_column second(.clk(clk), .a(~shifted), .q(q[31:16]));
assign out = q[15] ^ q[31];
endmodule
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BITLOOP_CACHE", str(tmp_path))


def say(message):
    """Nobody listens."""


def synthesized(verilog):
    blocks = {"first": "first.", "rest": ""}
    return synthesize(Design(verilog, "top", ("bitloop_column",), blocks), LFE5U_25F_381, say)


def test_a_small_design():
    netlist = synthesized(ADDER)
    area = netlist.area
    assert area.flip_flops == 3 * 16 and netlist.blocks["first"].flip_flops == 16
    assert 32 <= area.luts <= 52
    assert (area.block_rams, area.multipliers) == (0, 0)
    routed = route(netlist, LFE5U_25F_381, CONSTRAINTS, 1, 100, say)
    assert 100 < routed.megahertz < 1000
    assert routed.used["TRELLIS_FF"][0] == area.flip_flops
    assert 32 <= routed.used["TRELLIS_COMB"][0] <= area.luts + 8
    kinds = [segment["kind"] for segment in routed.critical_path]
    assert kinds[0] == "clk-to-q" and "routing" in kinds and "logic" in kinds
    path = sum(segment["nanoseconds"] for segment in routed.critical_path)
    assert path == pytest.approx(1000 / routed.megahertz, rel=0.01)

    again = route(synthesized(ADDER), LFE5U_25F_381, CONSTRAINTS, 1, 100, say)
    assert again == routed  # its seconds too: from the cache


def test_a_broken_design_is_refused_with_the_reason():
    with pytest.raises(DeviceError, match=r"top\.v:1: ERROR: syntax error"):
        synthesized("module top(input clk; endmodule")


def test_every_port_of_a_core_is_connected():
    config = preset("n4")
    text = wrapped(config).split(f"module {WRAPPER}")[1]
    for port in describe(config, "ecp5")["ports"]:
        assert f".{port['name']}(" in text
