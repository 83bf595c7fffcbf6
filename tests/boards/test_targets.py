# SPDX-License-Identifier: Apache-2.0
"""Boards: every port of a top has its pins, the text of the constraints, clocks and memories."""

import dataclasses
import re

import pytest

from bitloop.boards.constraints import HEADROOM, constraints_of
from bitloop.boards.system import check_design
from bitloop.boards.targets import TARGETS, find_target
from bitloop.boards.targets.target import SDRAM_ROLES
from bitloop.boards.top import BoardTop
from bitloop.errors import DeviceError
from bitloop.hw.config import PRESETS, ConfigError

targets = pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)


@targets
def test_constraints_place_every_bit_of_every_port_once(target):
    suffix, text = constraints_of(target)
    if target.part.family == "ecp5":
        assert suffix == "lpf"
        placed = re.findall(r'^LOCATE COMP "(.*)" SITE "(\w+)";$', text, re.MULTILINE)
        standard = re.findall(r'^IOBUF PORT "(.*)" .*IO_TYPE=\w+', text, re.MULTILINE)
    else:
        assert suffix == "cst"
        placed = re.findall(r'^IO_LOC "(.*)" (\w+);$', text, re.MULTILINE)
        standard = re.findall(r'^IO_PORT "(.*)" .*IO_TYPE=\w+', text, re.MULTILINE)
    top = BoardTop(target, target.config(), target.clocks())
    top._MustUse__silence = top.system._MustUse__silence = True  # asked for its ports only
    bits = {
        f"{name}[{index}]" if len(port) > 1 else name
        for name, port in top.ports.items()
        for index in range(len(port))
        if not name.startswith(("O_sdram", "IO_sdram"))
    }
    assert sorted(bit for bit, _ in placed) == sorted(bits) == sorted(standard)
    pins = [pin for _, pin in placed]
    assert len(set(pins)) == len(pins)


@targets
def test_the_clock_of_ecp5_boards_is_constrained(target):
    if target.part.family != "ecp5":
        return
    _, text = constraints_of(target)
    clock = target.pins().clock.name
    assert f'FREQUENCY PORT "{clock}" {HEADROOM * target.input_megahertz:g} MHZ;' in text


@targets
def test_a_target_is_whole(target):
    assert find_target(target.name) is target
    assert target.clocks().megahertz >= target.megahertz
    assert target.clocks().megahertz == pytest.approx(target.megahertz, rel=0.01)
    assert PRESETS[target.preset] == target.config()
    pins = target.pins()
    assert [pins.clock.direction, pins.uart_rx.direction] == ["i", "i"]
    assert [pins.uart_tx.direction, pins.leds.direction] == ["o", "o"]
    chip = target.memory
    if isinstance(chip, int):
        assert pins.sdram == {}
        return
    assert tuple(pins.sdram) == SDRAM_ROLES
    widths = {"ba": 2, "a": chip.address_bits, "dq": chip.data_bits, "dqm": chip.data_bits // 8}
    for role, port in pins.sdram.items():
        assert port.width == widths.get(role, 1), role
        assert port.direction == ("io" if role == "dq" else "o")


def test_pins_of_the_ulx3s_are_those_of_its_schematic():
    """A few by hand, against a slip in reading amaranth-boards."""
    pins = TARGETS["ulx3s-85f"].pins()
    assert (pins.clock.pins, pins.uart_rx.pins, pins.uart_tx.pins) == (("G2",), ("M1",), ("L4",))
    assert pins.leds.pins == ("B2", "C2", "C1", "D2", "D1", "E2", "E1", "H3")
    assert pins.sdram["clk"].pins == ("F19",) and pins.sdram["a"].pins[10] == "N19"
    assert pins.sdram["dq"].pins[0] == "J16" and pins.sdram["dqm"].pins == ("U19", "E20")


@targets
def test_block_rams_of_core_and_memory_fit(target):
    config = target.config()
    rams = sum(config.block_rams.values())
    if isinstance(target.memory, int):
        rams += target.memory // 2048
    assert rams + 3 <= target.part.block_rams  # and the link's
    assert config.multipliers <= target.part.multipliers


def test_what_a_board_cannot_have_is_refused():
    target = TARGETS["ulx3s-12f"]
    with pytest.raises(DeviceError, match="unknown board 'ulx4s'; known: ulx3s-85f"):
        find_target("ulx4s")
    with pytest.raises(ConfigError, match="unknown preset 'n5'"):
        target.config("n5")
    with pytest.raises(DeviceError, match="up to 100 MHz at CAS latency 2"):
        target.clocks(120)
    with pytest.raises(DeviceError, match="32 bits wide, the core's 64"):
        check_design(target, target.config().replace(data_bits=64), 80)
    fast = dataclasses.replace(target, baud=50_000_000)
    with pytest.raises(DeviceError, match="baud"):
        check_design(fast, target.config(), 80)
