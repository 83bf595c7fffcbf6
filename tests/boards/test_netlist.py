# SPDX-License-Identifier: Apache-2.0
"""What is left open never mattered: cells evaluated with every value on the open inputs."""

import copy
import itertools

from hypothesis import example, given
from hypothesis import strategies as st

from bitloop.boards.netlist import OPEN, open_carry_ends

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
