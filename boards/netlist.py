# SPDX-License-Identifier: Apache-2.0
"""What synthesis leaves for place and route to waste, mended in the netlist: `mend` does it all.

A carry chain enters and leaves the dedicated wires through a cell of its own, two logic cells,
wherever its first carry input is a constant or its last carry output is connected. Where nobody
reads that output, or no input can change anything, nextpnr needs to be told.

The wires of an ECP5 tile that reach the inputs A of its LUTs are others than those that reach B, C
or D. Place and route permutes the inputs of LUTs to balance them, but not those of carry cells,
where equal rows of an adder then compete for the same quarter of the wires.

Block RAMs have output registers that synthesis does not use.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

OPEN = ["x"]
_LETTERS = "ABCD"
_OUTPUTS = 18
"""Data outputs of one port of a block RAM; at a width of 36 bits both ports' are one word."""


def mend(module: dict[str, Any]) -> None:
    """Do all of this module to `module`, one of a Yosys JSON netlist, in place."""
    open_carry_ends(module)
    spread_carry_inputs(module)
    register_block_rams(module)


def open_carry_ends(module: dict[str, Any]) -> tuple[int, int]:
    """Leave open, in place, the carry outputs of CCU2C cells that nobody reads and the constant
    carry inputs of those whose first half neither passes nor shows it; returns how many of
    each."""
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


def spread_carry_inputs(module: dict[str, Any]) -> None:
    """Exchange A with B and C with D in the second half of every CCU2C cell. Its sum is that of all
    four, its carry that of A and B where C and D are 0, so neither changes."""
    for cell in module["cells"].values():
        if cell["type"] != "CCU2C":
            continue
        pins, parameters = cell["connections"], cell["parameters"]
        for one, other in ("AB", "CD"):
            ports = f"{one}1", f"{other}1"
            values = [pins.pop(port, None) for port in ports]
            pins |= {p: v for p, v in zip(ports, reversed(values), strict=True) if v is not None}
        table = parameters["INIT1"][::-1]
        parameters["INIT1"] = "".join(table[_exchanged(i)] for i in range(16))[::-1]


def _exchanged(index: int) -> int:
    """A row of a LUT's table after exchanging A with B and C with D."""
    return (index & 0b0101) << 1 | (index & 0b1010) >> 1


def register_block_rams(module: dict[str, Any]) -> int:
    """Move flip-flops that do nothing but register outputs of a DP16KD, all with the same enable,
    into its output registers; returns how many. A wire and a flip-flop a bit less, and the outputs
    come sooner after the clock."""
    readers: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for name, cell in module["cells"].items():
        for port, bits in cell["connections"].items():
            if cell["port_directions"].get(port) != "output":
                for bit in bits:
                    readers[bit].append((name, port))
    for port in module["ports"].values():
        for bit in port["bits"]:
            readers[bit].append(("", ""))
    moved = 0
    rams = [cell for cell in module["cells"].values() if cell["type"] == "DP16KD"]
    for ram in rams:
        is_wide = int(ram["parameters"]["DATA_WIDTH_B"], 2) == 2 * _OUTPUTS
        for sides in ["AB"] if is_wide else ["A", "B"]:
            moved += _register_outputs(module, ram, sides, readers)
    return moved


def _register_outputs(
    module: dict[str, Any],
    ram: dict[str, Any],
    sides: str,
    readers: dict[int, list[tuple[str, str]]],
) -> int:
    cells, pins = module["cells"], ram["connections"]
    outputs = {}
    for side in sides:
        if ram["parameters"][f"REGMODE_{side}"] != "NOREG":
            return 0
        for i in range(_OUTPUTS):
            bit = pins.get(f"DO{side}{i}", OPEN)[0]
            if readers.get(bit):
                outputs[f"DO{side}{i}"] = readers[bit]
    registers, enables = {}, set()
    for output, users in outputs.items():
        name, port = users[0]
        if len(users) > 1 or port != "DI" or not _is_plain(cells[name], pins[f"CLK{sides[-1]}"]):
            return 0
        registers[output] = name
        always = cells[name]["parameters"]["CEMUX"].strip() == "1"
        enables.add("1" if always else cells[name]["connections"]["CE"][0])
    if len(enables) != 1:
        return 0
    for output, name in registers.items():
        pins[output] = cells.pop(name)["connections"]["Q"]
    for side in sides:
        ram["parameters"][f"REGMODE_{side}"] = "OUTREG"
        pins[f"OCE{side}"] = list(enables)
    return len(registers)


def _is_plain(cell: dict[str, Any], clock: list) -> bool:
    """Whether it is a flip-flop on `clock` without set or reset, and with an enable that is not
    inverted."""
    return (
        cell["type"] == "TRELLIS_FF"
        and cell["connections"]["CLK"] == clock
        and cell["parameters"]["CLKMUX"] == "CLK"
        and cell["parameters"]["REGSET"] == "RESET"
        and cell["parameters"]["CEMUX"].strip() in ("1", "CE")
        and cell["connections"].get("LSR", ["0"]) == ["0"]
    )


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
