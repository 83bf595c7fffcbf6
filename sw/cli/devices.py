# SPDX-License-Identifier: Apache-2.0
"""`bitloop devices`: what networks can run on here."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .common import JsonOption, print_json, print_table, progress

NAME = "devices"


def command(
    probe: Annotated[
        bool, typer.Option("--probe", help="Ask each serial port whether a board is behind it.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List what run, latency and search take as `--device`.

    These are devices in software, virtual boards, and the serial ports of this machine. A port is
    sent nothing unless `--probe` is given: then a board behind it says what it is.

    Example: bitloop devices --probe
    """
    from bitloop.boards.targets import TARGETS

    rows: list[dict[str, Any]] = [
        {"device": "reference", "kind": "software", "description": "the program interpreted"},
        {
            "device": "model",
            "kind": "software",
            "description": "its cycles, equal to the RTL's",
        },
        {"device": "verilator", "kind": "simulation", "description": "the RTL of the core"},
    ]
    for target in TARGETS.values():
        rows.append(
            {
                "device": f"virtual:{target.name}",
                "kind": "simulation",
                "description": f"the whole top of {target.title}",
            }
        )
    rows += _ports(probe)
    if as_json:
        print_json(rows)
        return
    from rich.table import Table

    table = Table("device", "kind", "description")
    for row in rows:
        table.add_row(row["device"], row["kind"], row["description"])
    print_table(table)
    if not any(row["kind"] == "port" for row in rows):
        typer.echo("no serial port found; plug a board in, or use a virtual one")


def _ports(probe: bool) -> list[dict[str, Any]]:
    from serial.tools.list_ports import comports

    rows = []
    for port in sorted(comports(), key=lambda found: found.device):
        row: dict[str, Any] = {
            "device": f"serial:{port.device}",
            "kind": "port",
            "description": port.description or "",
        }
        if probe:
            with progress(f"asking {port.device}"):
                row |= ask(port.device)
        rows.append(row)
    return rows


def ask(port: str) -> dict[str, Any]:
    """What answers behind a port, at the baud rate of any board there is."""
    from bitloop.boards.device import connect
    from bitloop.boards.link.protocol import BAUD
    from bitloop.boards.targets import TARGETS

    from ..errors import DeviceError

    why = ""
    rates = {target.baud for target in TARGETS.values()} - {BAUD}
    for name in (port, *(f"{port}@{rate}" for rate in sorted(rates))):
        try:
            line, bus = connect(name)
        except DeviceError as error:
            why = why or str(error)
            continue
        line.close()
        board = bus.description
        megahertz = board.clock_hertz / 1e6
        return {
            "device": f"serial:{name}",
            "board": board.name,
            "clock_megahertz": megahertz,
            "memory_bytes": board.memory_bytes,
            "description": f"{board.name}, {megahertz:g} MHz, {board.memory_bytes:,} B of memory",
        }
    return {"board": None, "description": why}
