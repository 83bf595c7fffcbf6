# SPDX-License-Identifier: Apache-2.0
"""Netlists for `netlist_simulator.h`: cells as numbers, and the simulator with the core's ports."""

from __future__ import annotations

import copy
import itertools
import subprocess
from array import array
from pathlib import Path
from typing import Any

import bitloop.sim.simulation
from bitloop.hw.config import CoreConfig
from bitloop.hw.verilog import describe
from bitloop.sim.toolchain import find_compiler

HERE = Path(__file__).parent
HARNESS = Path(bitloop.sim.simulation.__file__).parent

NOISE_NETS = 31
"""Inputs that are left open follow noise: nothing may depend on them."""

Net = int | str | tuple[str, int]
"""A net of the netlist, a constant ("x": open), or one of ours inside a cell."""
Logic = dict[Net, tuple[int, tuple[Net, ...]]]
"""What drives a net: the table of a LUT4, and its inputs."""


_MUX, _XOR, _BUFFER = 0xCACA, 0x6666, 0xAAAA
"""Tables of a multiplexer, first input 0, second 1; of what differs; of what is the same."""


class Cells:
    """A module of a Yosys JSON netlist as the numbers that `netlist_simulator.h` reads."""

    def __init__(self, module: dict[str, Any]) -> None:
        self._logic: Logic = {}
        self._numbers: dict[Net, int] = {"0": 0, "1": 1}
        self._numbers |= {("noise", i): 2 + i for i in range(NOISE_NETS)}
        self._noise = itertools.cycle(range(2, 2 + NOISE_NETS))
        kinds: dict[str, list[dict[str, Any]]] = {}
        for cell in module["cells"].values():
            kinds.setdefault(cell["type"], []).append(cell)
        ports = [port for _, port in sorted(module["ports"].items())]
        inputs = [bit for p in ports if p["direction"] == "input" for bit in p["bits"]]
        outputs = [bit for p in ports if p["direction"] == "output" for bit in p["bits"]]
        flip_flops, luts = kinds.pop("TRELLIS_FF"), kinds.pop("LUT4")
        lut_rams, rams = kinds.pop("TRELLIS_DPR16X4"), kinds.pop("DP16KD")
        multipliers, carries = kinds.pop("MULT18X18D"), kinds.pop("CCU2C")
        muxes = [
            (cell, names)
            for kind, names in (("PFUMX", "BLUT ALUT C0"), ("L6MUX21", "D0 D1 SD"))
            for cell in kinds.pop(kind, [])
        ]
        assert not kinds, f"cells that the simulator does not know: {set(kinds)}"

        first = 2 + NOISE_NETS
        for bit in (
            *inputs,
            *(cell["connections"]["Q"][0] for cell in flip_flops),
            *(_pin(cell, f"DO{s}{i}") for cell in rams for s in "AB" for i in range(18)),
            *(_pin(cell, f"P{i}") for cell in multipliers for i in range(36)),
        ):
            assert bit not in self._numbers, f"net {bit} has two drivers"
            self._numbers[bit if bit != "x" else ("open", first)] = first
            first += 1
        for cell in luts:
            self._drive(cell, "Z", int(cell["parameters"]["INIT"], 2), *"ABCD")
        for cell, names in muxes:
            self._drive(cell, "Z", _MUX, *names.split())
        for number, cell in enumerate(carries):
            self._carry(number, cell)
        for cell in lut_rams:
            assert "1" not in cell["parameters"]["INITVAL"]
            for bit in cell["connections"]["DO"]:
                self._put(bit, 0, tuple(cell["connections"]["RAD"]))

        self._first_lut = first
        self.luts: list[list[int]] = []  # four inputs and a table each, in order
        self.outputs = [self._number(bit) for bit in outputs]
        self.flip_flops = [self._flip_flop(cell) for cell in flip_flops]
        self.rams = [self._block_ram(cell) for cell in rams]
        self.multipliers = [self._multiplier(cell) for cell in multipliers]
        pins = [self._lut_ram(cell) for cell in lut_rams]  # all, before asking which bits are read
        self.lut_rams = [
            nets + [self._numbers.get(bit, first - 1) - first for bit in cell["connections"]["DO"]]
            for cell, nets in zip(lut_rams, pins, strict=True)
        ]
        self.inputs = len(inputs)
        named = (name for name, cell in module["cells"].items() if cell["type"] == "TRELLIS_FF")
        self.states = dict(enumerate(named, 2 + NOISE_NETS + len(inputs)))
        """Names of flip-flops by their nets."""

    def renamed(self, nets: dict[int, int]) -> Cells:
        """With everything that reads one of some nets of flip-flops reading another one instead."""

        def chosen(rows: list[list[int]], first: int, last: int) -> list[list[int]]:
            """Rows, of which columns `first` to `last` are nets."""
            return [
                [*row[:first], *(nets.get(net, net) for net in row[first:last]), *row[last:]]
                for row in rows
            ]

        other = copy.copy(self)
        other.luts = chosen(self.luts, 0, 4)
        other.flip_flops = chosen(self.flip_flops, 0, 3)
        other.lut_rams = chosen(self.lut_rams, 0, 9)
        other.rams = chosen(self.rams, 4, 4 + 2 * 18 + 2 * 14 + 5)
        other.multipliers = chosen(self.multipliers, 1, 1 + 2 * 18 + 2 + 4)
        other.outputs = [nets.get(net, net) for net in self.outputs]
        return other

    def write(self, path: Path) -> None:
        """As a file for the simulator."""
        sections: list[list[Any]] = [[2, NOISE_NETS, self.inputs], self.outputs, self.flip_flops]
        sections += [self.luts, self.lut_rams, self.rams, self.multipliers]
        numbers = array("i")
        for rows in sections:
            numbers.append(len(rows))
            for row in rows:
                numbers.extend(row if isinstance(row, list) else [row])
        path.write_bytes(numbers.tobytes())

    def _put(self, net: Net, table: int, inputs: tuple[Net, ...]) -> None:
        if net == "x":
            return
        assert net not in self._logic and net not in self._numbers, f"net {net} has two drivers"
        self._logic[net] = table, inputs

    def _drive(self, cell: dict[str, Any], output: str, table: int, *inputs: str) -> None:
        pins = tuple(_pin(cell, name) for name in inputs)
        self._put(_pin(cell, output), table, pins + ("0",) * (4 - len(pins)))

    def _carry(self, number: int, cell: dict[str, Any]) -> None:
        """A carry cell as LUTs. The table of a half is its sum without a carry, and says whether
        the carry passes; where it does not, the table's first quarter is the carry out."""
        carry = _pin(cell, "CIN")
        if carry == "x":
            carry = "noise", number % NOISE_NETS  # one for all that the cell does with it
        for half in "01":
            assert cell["parameters"][f"INJECT1_{half}"] == "NO"
            table = int(cell["parameters"][f"INIT{half}"], 2)
            pins = tuple(_pin(cell, f"{letter}{half}") for letter in "ABCD")
            passes, leaves = (f"passes{half}", number), (f"carry{half}", number)
            self._put(passes, table, pins)
            self._put(_pin(cell, f"S{half}"), _XOR, (passes, carry, "0", "0"))
            generates = sum((table >> (row >> 2) & 1) << row for row in range(16))
            chosen = sum(
                ((row >> 1 if row & 1 else generates >> row) & 1) << row for row in range(16)
            )
            self._put(leaves, chosen, (passes, carry, *pins[:2]))
            carry = leaves
        self._put(_pin(cell, "COUT"), _BUFFER, (carry, "0", "0", "0"))

    def _number(self, net: Net) -> int:
        """Of a net, and of all LUTs before it, which are laid out in order."""
        if net == "x":
            return next(self._noise)
        waiting = [net]
        entered: set[Net] = set()
        while waiting:
            last = waiting[-1]
            if last in self._numbers:
                waiting.pop()
                continue
            assert last in self._logic, f"net {last} has no driver"
            table, inputs = self._logic[last]
            missing = [i for i in inputs if i != "x" and i not in self._numbers]
            if missing:
                assert last not in entered, f"net {last} depends on itself"
                entered.add(last)
                waiting += missing
                continue
            row = [next(self._noise) if i == "x" else self._numbers[i] for i in inputs]
            self._numbers[last] = self._first_lut + len(self.luts)
            self.luts.append([*row, table])
            waiting.pop()
        return self._numbers[net]

    def _pins(self, cell: dict[str, Any], *names: str) -> list[int]:
        return [self._number(_pin(cell, name)) for name in names]

    def _flip_flop(self, cell: dict[str, Any]) -> list[int]:
        values = cell["parameters"]
        _check(values, CLKMUX="CLK", LSRMUX="LSR", GSR="DISABLED", SRMODE="LSR_OVER_CE")
        kind = values["CEMUX"].strip()
        enable = 1 if kind == "1" else self._number(_pin(cell, "CE"))
        inverted = {"1": 0, "CE": 0, "INV": 1}[kind]
        reset_value = {"RESET": 0, "SET": 1}[values["REGSET"]]
        return [*self._pins(cell, "DI"), enable, *self._pins(cell, "LSR"), inverted, reset_value]

    def _lut_ram(self, cell: dict[str, Any]) -> list[int]:
        _check(cell["parameters"], WCKMUX="WCK", WREMUX="WRE")
        pins = cell["connections"]
        return [self._number(bit) for name in ("WRE", "WAD", "DI") for bit in pins[name]]

    def _block_ram(self, cell: dict[str, Any]) -> list[int]:
        values = cell["parameters"]
        _check(values, CLKAMUX="CLKA", CLKBMUX="CLKB", GSR="DISABLED")
        _check(values, CSDECODE_A="0b000", CSDECODE_B="0b000")
        unused = [f"CS{side}{i}" for side in "AB" for i in range(3)] + ["RSTA", "RSTB", "WEB"]
        assert {_pin(cell, name) for name in unused} == {"0"}
        width = int(values["DATA_WIDTH_A"], 2)
        assert width == int(values["DATA_WIDTH_B"], 2) and width in (9, 18, 36)
        modes = [int(values[f"REGMODE_{side}"] == "OUTREG") for side in "AB"]
        write_mode = values.get("WRITEMODE_A", "NORMAL")
        assert write_mode in ("NORMAL", "READBEFOREWRITE")
        names = [f"DI{side}{i}" for side in "AB" for i in range(18)]
        names += [f"AD{side}{i}" for side in "AB" for i in range(14)]
        pins = self._pins(cell, *names, "CEA", "CEB", "OCEA", "OCEB", "WEA")
        rows = "".join(values[f"INITVAL_{i:02X}"].zfill(320) for i in reversed(range(64)))
        bits = int(rows.replace("x", "0"), 2)
        # 16 rows in each, 20 bits of which two bytes of 9 are there.
        contents = [bits >> (20 * (i // 2) + 9 * (i % 2)) & 511 for i in range(2048)]
        return [width, *modes, int(write_mode == "READBEFOREWRITE"), *pins, *contents]

    def _multiplier(self, cell: dict[str, Any]) -> list[int]:
        values = cell["parameters"]
        names = ("INPUTA", "INPUTB", "PIPELINE", "OUTPUT")
        clocks = [values.get(f"REG_{name}_CLK", "NONE") for name in names]
        enables = [values.get(f"REG_{name}_CE", "CE0") for name in names]
        assert clocks in (["CLK0"] * 4, ["CLK0", "CLK0", "NONE", "CLK0"])
        assert values["GSR"] == "DISABLED"
        assert {_pin(cell, name) for name in ("RST0", "SOURCEA", "SOURCEB")} == {"0"}
        factors = [f"{side}{i}" for side in "AB" for i in range(18)]
        pins = self._pins(cell, *factors, "SIGNEDA", "SIGNEDB", *enables)
        return [int(clocks[2] == "CLK0"), *pins]


def _pin(cell: dict[str, Any], name: str) -> Net:
    """The net of a pin of one bit."""
    return cell["connections"].get(name, ["x"])[0]


def _check(parameters: dict[str, str], **values: str) -> None:
    for name, value in values.items():
        assert parameters.get(name, value) == value, f"{name} is {parameters[name]}"


PORT_TYPES = ((8, "uint8_t {}"), (16, "uint16_t {}"), (32, "uint32_t {}"), (64, "uint64_t {}"))
"""Types of ports up to so many bits, as Verilator has them; wider ones are words of 32 bits."""


def library(config: CoreConfig, folder: Path) -> Path:
    """Builds the simulator with the core's ports, in the RTL's harness."""
    lines = ["#pragma once", '#include "netlist_simulator.h"', "class Vtop : netlist::Netlist {"]
    lines += ["  public:", "    Vtop(VerilatedContext*, const char*) {}", "    void final() {}"]
    moved: dict[str, list[str]] = {"input": [], "output": []}
    for port in sorted(describe(config, "ecp5")["ports"], key=lambda port: port["name"]):
        name, width, direction = port["name"], port["width"], port["direction"]
        wide = f"uint32_t {{}}[{-(-width // 32)}]"
        kind = next((kind for bits, kind in PORT_TYPES if width <= bits), wide)
        lines.append(f"    {kind.format(name)} = {{}};")
        call = {"input": "put", "output": "get"}[direction]
        moved[direction].append(f"{call}({name}, {width}, i);")
    lines += [
        "    void eval() {",
        "        int i = 0;",
        "        if (clk && !was_high_) clock();",
        "        was_high_ = clk;",
        "        if (clk) return;",  # inputs change, and outputs are looked at, while it is low
        *moved["input"],
        "        settle();",
        "        i = 0;",
        *moved["output"],
        "    }",
        "  private:",
        "    bool was_high_ = false;",
        "};",
    ]
    (folder / "Vtop.h").write_text("\n".join(lines) + "\n")
    (folder / "verilated.h").write_text('#include "netlist_simulator.h"\n')
    product = folder / f"{config.name}.so"
    command = [find_compiler()[0], "-std=gnu++20", "-O2", "-shared", "-fPIC", "-fno-gnu-unique"]
    command += ["-fvisibility=hidden", f"-I{folder}", f"-I{HERE}", f"-I{HARNESS}"]
    subprocess.run([*command, str(HARNESS / "harness.cpp"), "-o", str(product)], check=True)
    return product
