# SPDX-License-Identifier: Apache-2.0
"""Synthesis as the tools do it: what their names must not confuse, what must be refused."""

import pytest

from bitloop.boards.flow import Design, _check_drivers, synthesize
from bitloop.boards.targets import TARGETS
from bitloop.errors import DeviceError

NAMES_ALIKE = r"""
module top(input clk, input [3:0] x, input y, output reg [3:0] q);
  reg [3:0] a;
  reg \a[3] ;
  always @(posedge clk) begin
    a <= x;
    \a[3]  <= y;
    q <= {a[3] ^ a[2], a[2] & \a[3] , a[1] ^ \a[3] , a[0] & a[3]};
  end
endmodule
"""


def silent(message):
    pass


@pytest.mark.parametrize("board", ["ulx3s-12f", "tang-nano-20k"])
def test_a_bit_and_a_wire_called_like_it_stay_two(board):
    design = Design(NAMES_ALIKE, "top", (), {"all": ""})
    assert synthesize(design, TARGETS[board].part, silent).area.flip_flops == 9


def test_two_drivers_are_refused(tmp_path):
    cell = {"port_directions": {"Q": "output", "D": "input"}, "connections": {"D": [3], "Q": [2]}}
    module = {"cells": {"one": cell}, "netnames": {"shared": {"bits": [2]}}}
    _check_drivers(module, tmp_path)
    module["cells"]["other"] = cell
    with pytest.raises(DeviceError, match=r"1 nets two drivers, shared"):
        _check_drivers(module, tmp_path)
