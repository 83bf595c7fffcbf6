# SPDX-License-Identifier: Apache-2.0
"""`bitloop search`: weight widths of least accuracy loss under a budget of measured cycles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..files import check_output
from .common import (
    DEFAULT_PRESET,
    JsonOption,
    MemoryOption,
    PresetOption,
    SeedOption,
    SetOption,
    TimedDeviceOption,
    configure,
    parse_memory,
    print_json,
    print_table,
    progress,
    require_file,
)

if TYPE_CHECKING:
    from rich.console import Group

    from ..search.loop import SearchResult

NAME = "search"


def command(
    network: Annotated[Path, typer.Argument(metavar="NET.pt2", help="Float torch.export program.")],
    data: Annotated[
        Path,
        typer.Option("--data", metavar="D.npz", help="`x` float32 NCHW and, to score, labels `y`."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Quantized program to write.")],
    budget_cycles: Annotated[
        int | None, typer.Option(metavar="K", help="Cycles of one inference, at most.")
    ] = None,
    budget_ratio: Annotated[
        float | None,
        typer.Option(metavar="R", help="At most R times the uniform 8-bit cycles, 0 < R <= 1."),
    ] = None,
    evaluation: Annotated[
        Path | None,
        typer.Option(
            "--eval", metavar="E.npz", help="Scores on these instead of half of the data."
        ),
    ] = None,
    preset: PresetOption = DEFAULT_PRESET,
    device: TimedDeviceOption = "verilator",
    memory: MemoryOption = None,
    settings: SetOption = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Choose a weight width for each layer against latency measured on the RTL.

    A layer's cycles are from the run of the whole network at that uniform width. The chosen
    network is measured whole: `cycles`, beside the sum of its layers, head and tail.

    Example: bitloop search net.pt2 --data d.npz --budget-ratio 0.6 --preset n4 -o net.mixed.pt2
    """
    config = configure(preset, settings)
    model = parse_memory(memory)
    for path in (network, data, *((evaluation,) if evaluation else ())):
        require_file(path)
    check_output(output)
    with progress("loading PyTorch") as say:
        from ..dataset import load_dataset
        from ..frontend.torch_export import load_program
        from ..programs import save_program
        from ..search.loop import check_budget, search
        from ..session import open_device

        check_budget(budget_cycles, budget_ratio)
        program = load_program(network)
        result = search(
            program,
            load_dataset(data),
            config=config,
            device=open_device(device, config, model, say),
            budget_cycles=budget_cycles,
            budget_ratio=budget_ratio,
            evaluation=load_dataset(evaluation) if evaluation else None,
            seed=seed,
            progress=say,
        )
        save_program(result.program, output)
    if as_json:
        print_json(result.as_dict())
    else:
        print_table(result_report(result))
        typer.echo(f"wrote {output}")


def result_report(result: SearchResult) -> Group:
    """The chosen widths, and what they cost and save, to print."""
    from rich.console import Group
    from rich.table import Table

    table = Table(title="bit-widths chosen", title_justify="left")
    table.add_column("layer")
    table.add_column("bits", justify="right")
    table.add_column("cycles", justify="right")
    for layer in result.layers:
        table.add_row(layer.name, str(layer.weight_bits or ""), f"{layer.cycles:,}")
    difference = result.cycles - result.cycles_sum_of_layers
    lines = [
        f"cycles: {result.cycles_uniform8:,} at uniform 8 bits, {result.cycles:,} now "
        f"({result.cycles_uniform8 / result.cycles:.2f}x faster), measured whole; "
        f"{difference:+,} against the sum of layers, head and tail",
    ]
    if result.accuracy is not None:
        lines.append(
            f"accuracy: {result.accuracy_float:.2%} float, {result.accuracy_uniform8:.2%} at "
            f"uniform 8 bits, {result.accuracy:.2%} now"
        )
    lines.append(f"whole networks measured: {result.evaluations}")
    return Group(table, *lines)
