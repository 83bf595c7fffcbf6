# SPDX-License-Identifier: Apache-2.0
"""The core alone, to be placed and routed: what its clock is without a board around it."""

from __future__ import annotations

from bitloop.hw.config import CoreConfig
from bitloop.hw.verilog import COLUMN, TOP, describe, emit

from .flow import Design

WRAPPER = "bitloop_wrapper"
PINS = {"clk": "G2", "rst": "D6", "in": "R1", "out": "B2"}
"""Where ports go, in the package CABGA381. Left to the placer, the clock can end up beside others
that take its only way to the clock network."""
CONSTRAINTS = ("lpf", "".join(f'LOCATE COMP "{p}" SITE "{pin}";\n' for p, pin in PINS.items()))


def bare_core(config: CoreConfig) -> Design:
    """The core in a wrapper, for ECP5; the wrapper's own cells are a block."""
    blocks = {"columns": "core.array.column", "core": "core.", "wrapper": ""}
    return Design(wrapped(config), WRAPPER, (COLUMN,), blocks)


def wrapped(config: CoreConfig) -> str:
    """Verilog of a core whose ports are registers shifted in and folded out over four pins, so that
    every path has a register at both ends; top module `WRAPPER`."""
    ports = [p for p in describe(config, "ecp5")["ports"] if p["name"] not in ("clk", "rst")]
    sides = {
        side: [(p["name"], p["width"]) for p in ports if p["direction"] == side]
        for side in ("input", "output")
    }
    inputs, outputs = (sum(width for _, width in sides[side]) for side in ("input", "output"))
    folded = -(-outputs // 3)
    lines = [
        f"module {WRAPPER}(input clk, input rst, input in, output reg out);",
        f"reg [{inputs - 1}:0] shifted; reg [{folded - 1}:0] folds; reg reset;",
        f"wire [{3 * folded - 1}:0] outputs;",
    ]
    if 3 * folded > outputs:
        lines.append(f"assign outputs[{3 * folded - 1}:{outputs}] = 0;")
    lines += ["always @(posedge clk) begin", "reset <= rst; shifted <= {shifted, in};"]
    for i in range(folded):
        before = f"folds[{i - 1}] ^ " if i else ""
        lines.append(f"folds[{i}] <= {before}^outputs[{3 * i + 2}:{3 * i}];")
    lines += [f"out <= folds[{folded - 1}];", "end", f"{TOP} core(.clk(clk), .rst(reset)"]
    for side, wire in (("input", "shifted"), ("output", "outputs")):
        position = 0
        for name, width in sides[side]:
            lines.append(f", .{name}({wire}[{position + width - 1}:{position}])")
            position += width
    return emit(config, "ecp5") + "\n".join([*lines, ");", "endmodule", ""])
