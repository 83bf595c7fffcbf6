# SPDX-License-Identifier: Apache-2.0
"""`bitloop isa`: the reference tables of instructions and registers."""

from __future__ import annotations

import typer

NAME = "isa"


def command() -> None:
    """Print the instruction formats and the register map as Markdown.

    Example: bitloop isa > reference.md
    """
    from bitloop.hw import isa, registers

    typer.echo(f"## Instructions (version {isa.ISA_VERSION})\n")
    typer.echo(isa.reference_table())
    typer.echo(f"## Registers (version {registers.VERSION})\n")
    typer.echo(registers.reference_table())
