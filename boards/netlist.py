# SPDX-License-Identifier: Apache-2.0
"""What synthesis leaves for place and route to waste: the ends of ECP5 carry chains.

A carry chain enters and leaves the dedicated wires through a cell of its own, two logic cells,
wherever its first carry input is a constant or its last carry output is connected. Where nobody
reads that output, or no input can change anything, nextpnr needs to be told.
"""

from __future__ import annotations

from typing import Any

OPEN = ["x"]
_LETTERS = "ABCD"


def open_carry_ends(module: dict[str, Any]) -> tuple[int, int]:
    """Leave open, in place, the carry outputs of CCU2C cells that nobody reads and the constant
    carry inputs of those whose first half neither passes nor shows it. `module` is one of a Yosys
    JSON netlist; returns how many of each."""
    read = _bits_read(module)
    outputs = inputs = 0
    for cell in module["cells"].values():
        if cell["type"] != "CCU2C":
            continue
        pins = cell["connections"]
        if pins.get("COUT", OPEN) != OPEN and pins["COUT"][0] not in read:
            pins["COUT"] = OPEN
            outputs += 1
        constant = pins.get("CIN", OPEN) in (["0"], ["1"])
        if constant and not _reads(read, pins.get("S0")) and _never_propagates(cell):
            pins["CIN"] = OPEN
            inputs += 1
    return outputs, inputs


def _bits_read(module: dict[str, Any]) -> set[int]:
    """Nets that some cell's input or an output of the module is connected to."""
    read: set[int] = set()
    for cell in module["cells"].values():
        for port, bits in cell["connections"].items():
            if cell["port_directions"].get(port) != "output":
                read.update(bit for bit in bits if isinstance(bit, int))
    for port in module["ports"].values():
        read.update(bit for bit in port["bits"] if isinstance(bit, int))
    return read


def _reads(read: set[int], bits: list | None) -> bool:
    return bits is not None and any(bit in read for bit in bits)


def _never_propagates(cell: dict[str, Any]) -> bool:
    """Whether the first half's function is 0 for all values of its inputs that are not constant."""
    if cell["parameters"].get("INJECT1_0") != "NO":
        return False
    table = int(cell["parameters"]["INIT0"], 2)
    pins = [cell["connections"].get(f"{letter}0", ["0"])[0] for letter in _LETTERS]
    for index in range(16):
        possible = all(
            pin not in ("0", "1") or int(pin) == index >> k & 1 for k, pin in enumerate(pins)
        )
        if possible and table >> index & 1:
            return False
    return True
