# SPDX-License-Identifier: Apache-2.0
"""What is left open never mattered: cells evaluated with every value on the open inputs."""

import copy
import itertools

from hypothesis import example, given
from hypothesis import strategies as st

from bitloop.boards.netlist import (
    OPEN,
    open_carry_ends,
    register_block_rams,
    spread_carry_inputs,
)

LETTERS = "ABCD"


def evaluate(cells, inputs, open_value):
    """Values of all nets; `open_value` goes to inputs that are not connected."""
    nets = dict(inputs) | {"0": 0, "1": 1, "x": open_value}
    for cell in cells:  # in the order of the chain
        pins = cell["connections"]
        carry = nets[pins["CIN"][0]]
        for half in "01":
            bits = [nets[pins[f"{letter}{half}"][0]] for letter in LETTERS]
            table = int(cell["parameters"][f"INIT{half}"], 2)
            propagate = table >> sum(bit << k for k, bit in enumerate(bits)) & 1
            generate = table >> (bits[0] + 2 * bits[1]) & 1
            nets[pins[f"S{half}"][0]] = propagate ^ carry
            carry = carry if propagate else generate
        nets[pins["COUT"][0]] = carry
    return nets


@st.composite
def chains(draw):
    """A chain of one to three cells over four input nets and constants, and which nets are read."""
    sources = st.sampled_from(["0", "1", 2, 3, 4, 5])
    cells, net, carry = [], 10, draw(st.sampled_from(["0", "1", 2]))
    for _ in range(draw(st.integers(1, 3))):
        pins = {f"{letter}{half}": [draw(sources)] for half in "01" for letter in LETTERS}
        pins |= {"CIN": [carry], "S0": [net], "S1": [net + 1], "COUT": [net + 2]}
        parameters = {"INJECT1_0": "NO", "INJECT1_1": "NO"}
        for half in "01":
            table = draw(st.one_of(st.just(0), st.integers(0, 0xFFFF), st.just(0x000F)))
            parameters[f"INIT{half}"] = f"{table:016b}"
        outputs = ("S0", "S1", "COUT")
        directions = {pin: "output" if pin in outputs else "input" for pin in pins}
        cells.append(
            {
                "type": "CCU2C",
                "parameters": parameters,
                "connections": pins,
                "port_directions": directions,
            }
        )
        carry, net = net + 2, net + 3
    read = draw(st.sets(st.sampled_from(range(10, net))))
    return cells, read


def cell(table0, **pins):
    connections = {f"{letter}{half}": ["0"] for half in "01" for letter in LETTERS}
    connections |= {"CIN": ["0"], "S0": [10], "S1": [11], "COUT": [12]} | pins
    outputs = ("S0", "S1", "COUT")
    return {
        "type": "CCU2C",
        "parameters": {
            "INIT0": f"{table0:016b}",
            "INIT1": f"{0x6666:016b}",
            "INJECT1_0": "NO",
            "INJECT1_1": "NO",
        },
        "connections": connections,
        "port_directions": {pin: "output" if pin in outputs else "input" for pin in connections},
    }


def module(cells, read):
    ports = {"out": {"direction": "output", "bits": sorted(read)}}
    return {"cells": {f"cell{i}": cell for i, cell in enumerate(cells)}, "ports": ports}


@given(chains())
@example(([cell(0)], {10}))
@example(([cell(0)], {11}))
def test_what_is_open_does_not_matter(chain):
    cells, read = chain
    opened = copy.deepcopy(cells)
    open_carry_ends(module(opened, read))
    for values in itertools.product((0, 1), repeat=4):
        inputs = dict(zip((2, 3, 4, 5), values, strict=True))
        right = evaluate(cells, inputs, 0)
        for open_value in (0, 1):
            nets = evaluate(opened, inputs, open_value)
            assert all(nets[net] == right[net] for net in read)


def test_ends_are_opened():
    """A chain that starts with half a cell that is 0, as `hw.carry` makes them."""
    cells = [cell(0, A1=[2], B1=[3])]
    assert open_carry_ends(module(cells, {11})) == (1, 1)
    assert cells[0]["connections"]["CIN"] == cells[0]["connections"]["COUT"] == OPEN


def test_ends_that_matter_stay():
    assert open_carry_ends(module([cell(0, A1=[2], B1=[3])], {10, 12})) == (0, 0)
    assert open_carry_ends(module([cell(0x6666, A0=[2], B0=[3])], {11, 12})) == (0, 0)


@given(chains())
def test_spread_inputs_compute_the_same(chain):
    cells, _ = chain
    spread = copy.deepcopy(cells)
    spread_carry_inputs(module(spread, {}))
    for before, after in zip(cells, spread, strict=True):
        pins = before["connections"], after["connections"]
        assert [pins[1][f"{letter}0"] for letter in LETTERS] == [
            pins[0][f"{letter}0"] for letter in LETTERS
        ]
        assert [pins[1][f"{letter}1"] for letter in LETTERS] == [
            pins[0][f"{letter}1"] for letter in "BADC"
        ]
    for values in itertools.product((0, 1), repeat=4):
        inputs = dict(zip((2, 3, 4, 5), values, strict=True))
        assert evaluate(cells, inputs, 0) == evaluate(spread, inputs, 0)


def flip_flop(data, q, **changes):
    cell = {
        "type": "TRELLIS_FF",
        "parameters": {"CEMUX": "1 ", "CLKMUX": "CLK", "REGSET": "RESET"},
        "connections": {"CLK": [1], "DI": [data], "Q": [q], "LSR": ["0"]},
        "port_directions": {"CLK": "input", "DI": "input", "Q": "output", "LSR": "input"},
    }
    for place, values in changes.items():
        cell[place] |= values
    return cell


ENABLED = {"parameters": {"CEMUX": "CE"}, "connections": {"CE": [9]}}


def block_ram(width, outputs, registers):
    """A module of a block RAM whose `outputs` (port to net) go to `registers` by net."""
    ports = {"CLKA": [1], "CLKB": [1], "OCEA": ["0"], "OCEB": ["1"]}
    ports |= {port: [net] for port, net in outputs.items()}
    ram = {
        "type": "DP16KD",
        "parameters": {
            f"{name}_{side}": value
            for side in "AB"
            for name, value in (("DATA_WIDTH", f"{width:b}"), ("REGMODE", "NOREG"))
        },
        "connections": ports,
        "port_directions": {p: "output" if p.startswith("DO") else "input" for p in ports},
    }
    cells = {"ram": ram} | {f"ff{net}": cell for net, cell in registers.items()}
    return {"cells": cells, "ports": {}}


def modes(module):
    return [module["cells"]["ram"]["parameters"][f"REGMODE_{side}"] for side in "AB"]


def test_flip_flops_go_into_the_block_ram():
    wide = {20: flip_flop(20, 30, **ENABLED), 21: flip_flop(21, 31, **ENABLED)}
    design = block_ram(36, {"DOA0": 20, "DOB1": 21}, wide)
    assert register_block_rams(design) == 2
    assert list(design["cells"]) == ["ram"]
    pins = design["cells"]["ram"]["connections"]
    assert (pins["DOA0"], pins["DOB1"], pins["OCEA"], pins["OCEB"]) == ([30], [31], [9], [9])
    assert modes(design) == ["OUTREG", "OUTREG"]


def test_ports_are_words_of_their_own_when_narrow():
    registers = {20: flip_flop(20, 30), 21: flip_flop(21, 31, connections={"LSR": [5]})}
    design = block_ram(18, {"DOA0": 20, "DOB0": 21}, registers)
    assert register_block_rams(design) == 1
    assert modes(design) == ["OUTREG", "NOREG"]
    assert design["cells"]["ram"]["connections"]["OCEA"] == ["1"]
    assert design["cells"]["ram"]["connections"]["DOB0"] == [21]


def test_flip_flops_that_do_more_stay():
    plain = flip_flop(20, 30)
    lists = [
        [plain, flip_flop(21, 31, **ENABLED)],  # enables differ
        [plain, flip_flop(21, 31, connections={"LSR": [5]})],
        [plain, flip_flop(21, 31, parameters={"REGSET": "SET"})],
        [plain, flip_flop(21, 31, connections={"CLK": [2]})],
        [plain, flip_flop(21, 31, parameters={"CEMUX": "INV"}, connections={"CE": [9]})],
        [plain, flip_flop(21, 31) | {"type": "LUT4"}],
    ]
    for registers in lists:
        design = block_ram(
            36, {"DOA0": 20, "DOB1": 21}, dict(zip((20, 21), registers, strict=True))
        )
        assert register_block_rams(design) == 0
        assert len(design["cells"]) == 3
        assert modes(design) == ["NOREG", "NOREG"]
    read_twice = block_ram(36, {"DOA0": 20}, {20: plain, 21: flip_flop(20, 31)})
    assert register_block_rams(read_twice) == 0
    shown = block_ram(36, {"DOA0": 20}, {20: plain})
    shown["ports"] = {"out": {"direction": "output", "bits": [20]}}
    assert register_block_rams(shown) == 0
