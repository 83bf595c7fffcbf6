# SPDX-License-Identifier: Apache-2.0
"""`bitloop presets`: what each preset holds and costs."""

from __future__ import annotations

from typing import Any

from bitloop.hw.config import PRESETS, CoreConfig

from .common import JsonOption, print_json, print_table

NAME = "presets"


def command(as_json: JsonOption = False) -> None:
    """Print the presets: size of the array and its memories, block RAMs, multipliers.

    Example: bitloop presets --json
    """
    from rich.table import Table

    rows = [figures(config) for config in PRESETS.values()]
    if as_json:
        print_json(rows)
        return
    table = Table()
    for key in rows[0]:
        table.add_column(key.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*(f"{v:,}" if isinstance(v, int) else str(v) for v in row.values()))
    print_table(table)


def figures(config: CoreConfig) -> dict[str, Any]:
    """One row of the table; all derived from the configuration."""
    return {
        "preset": config.name,
        "lanes": config.lanes,
        "columns": config.columns,
        "weight_rows": config.weight_rows,
        "weight_kb": config.weight_rows * config.weight_row_bytes // 1024,
        "activation_words": config.activation_words,
        "activation_kb": config.activation_words * config.lanes // 1024,
        "parameter_groups": config.parameter_groups,
        "step_entries": config.step_entries,
        "block_rams": sum(config.block_rams.values()),
        "multipliers": config.multipliers,
    }
