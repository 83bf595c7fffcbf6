# SPDX-License-Identifier: Apache-2.0
"""`bitloop isa`: the reference tables of instructions and registers."""

from __future__ import annotations

import click

NAME = "isa"


def command() -> None:
    """Print the instruction formats and the register map as Markdown.

    Example: bitloop isa > reference.md
    """
    from bitloop.hw import isa, registers

    click.echo(f"## Instructions (version {isa.ISA_VERSION})\n")
    click.echo(isa.reference_table())
    click.echo(f"## Registers (version {registers.VERSION})\n")
    click.echo(registers.reference_table())
