# SPDX-License-Identifier: Apache-2.0
"""`bitloop search`: weight widths of least accuracy loss under a budget of measured cycles."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import DeviceError
from .common import (
    DEFAULT_PRESET,
    INTERRUPTED,
    DataOption,
    EvaluationOption,
    JsonOption,
    MemoryOption,
    NetworkArgument,
    PresetOption,
    QuantizedOption,
    SeedOption,
    SetOption,
    TimedDeviceOption,
    WeightMethodOption,
    check_files,
    configure,
    parse_memory,
    print_json,
    print_table,
    progress,
)

if TYPE_CHECKING:
    from ..search.result import SearchResult

NAME = "search"

HTML_POINTS = 10
"""Points of the Pareto front where only a page is asked for."""


def command(
    network: NetworkArgument,
    data: DataOption,
    output: QuantizedOption,
    budget_cycles: Annotated[
        int | None, typer.Option(metavar="K", help="Cycles of one inference, at most.")
    ] = None,
    budget_ratio: Annotated[
        float | None,
        typer.Option(metavar="R", help="At most R times the uniform 8-bit cycles, 0 < R <= 1."),
    ] = None,
    budget_ms: Annotated[
        float | None,
        typer.Option(metavar="T", help="Milliseconds of one inference, at most; needs the clock."),
    ] = None,
    clock_mhz: Annotated[
        float | None, typer.Option(metavar="F", min=1, help="The core's clock, for milliseconds.")
    ] = None,
    budget_weight_bytes: Annotated[
        int | None,
        typer.Option(metavar="B", help="Bytes of all weights, at most; alone or beside another."),
    ] = None,
    evaluation: EvaluationOption = None,
    sensitivity: Annotated[
        str,
        typer.Option(metavar="METHOD", help="What ranks; `bitloop sensitivity --help` lists them."),
    ] = "kl",
    calibration: Annotated[
        str,
        typer.Option(
            metavar="METHOD", help="Ranges of activations, as `bitloop quantize --method`."
        ),
    ] = "minmax",
    weight_method: WeightMethodOption = "default",
    pareto: Annotated[
        int, typer.Option(metavar="N", help="Find a Pareto front of N points too.")
    ] = 0,
    rivals: Annotated[
        bool,
        typer.Option("--rivals", help="Choose by other methods for the same budget too."),
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="R.html", help="Write a page; finds a front of 10 points."),
    ] = None,
    preset: PresetOption = DEFAULT_PRESET,
    device: TimedDeviceOption = "verilator",
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Measure what is reported on the other device too."),
    ] = False,
    memory: MemoryOption = None,
    settings: SetOption = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Processes for longer work; one a core by default."),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Run on the dask cluster at tcp://HOST:PORT."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Use nothing that is known from earlier searches.")
    ] = False,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Choose a weight width for each layer against latency measured on the RTL.

    A layer's cycles are from the run of the whole network at that uniform width. The chosen
    network, and every point of a front, is measured whole: `cycles`, beside the sum of its layers,
    head and tail; a difference is fed back until the whole meets the budget.

    Without --eval one half of the data calibrates and ranks and the other half scores, by labels
    where there are any.

    Measurements and scores are kept (`bitloop store`): after Ctrl-C the same command goes on where
    it was. Ctrl-C writes the best network found within the budget, if there is one.

    Example: bitloop search net.pt2 --data d.npz --budget-ratio 0.6 --preset n4 -o net.mixed.pt2

    Example: bitloop search net.pt2 --data d.npz --eval e.npz --budget-ms 2 --clock-mhz 75
    --preset n16 --device model --verify --html search.html -o net.mixed.pt2
    """
    config = configure(preset, settings)
    model = parse_memory(memory)
    check_files(
        {"NET.pt2": network, "--data": data, "--eval": evaluation},
        {"--output": output, "--html": html},
    )
    with progress("loading PyTorch") as say:
        from ..dataset import load_dataset
        from ..frontend.torch_export import load_program
        from ..programs import save_program
        from ..search.budget import Budget
        from ..search.loop import Settings, search
        from ..search.memo import Forgetful
        from ..search.tasks import DeviceRecipe
        from ..search.work import Processes
        from ..session import is_board, open_device, open_store, stored

        if device == "reference":
            raise DeviceError(
                "device 'reference' has no notion of time; measure on `verilator`, `model` or a "
                "board"
            )
        board = is_board(device)
        if board and (verify or memory is not None):
            raise DeviceError(
                f"{device} has a memory of its own: leave out --memory, and --verify, which "
                "compares RTL and model under the same memory"
            )
        budget = Budget(budget_cycles, budget_ratio, budget_ms, budget_weight_bytes)
        budget.check()
        points = pareto or (HTML_POINTS if html else 0)
        how = Settings(
            method=sensitivity,
            pareto=points,
            rivals=rivals,
            proxies=points if html else 0,
            seed=seed,
            quantization={"method": calibration, "weight_method": weight_method},
        )
        how.check()
        program = load_program(network)
        images = load_dataset(data)
        scoring = load_dataset(evaluation) if evaluation else None
        store = None if fresh else open_store()

        def opened(name: str):
            found = open_device(name, config, model, say)
            return found if store is None else stored(found, store)

        other = "verilator" if device == "model" else "model"
        try:
            with Processes(workers or len(os.sched_getaffinity(0)), scheduler) as work:
                result = search(
                    program,
                    images,
                    config=config,
                    device=opened(device),
                    budget=budget,
                    evaluation=scoring,
                    settings=how,
                    megahertz=clock_mhz,
                    verify=opened(other) if verify else None,
                    work=work,
                    recipe=None if board else DeviceRecipe(device, config, model),
                    memo=store or Forgetful(),
                    progress=say,
                )
        except KeyboardInterrupt:
            typer.echo(
                "bitloop: interrupted before a network within the budget was measured; the same "
                "command goes on from here",
                err=True,
            )
            raise typer.Exit(INTERRUPTED) from None
        save_program(result.program, output)
        if html is not None:
            from ..html.search_page import write_search_page

            write_search_page(html, result, shlex.join(["bitloop", *sys.argv[1:]]))
    if as_json:
        print_json(result.as_dict())
    else:
        show_result(result)
        for path in (output, *((html,) if html else ())):
            typer.echo(f"wrote {path}")
    if not result.complete:
        typer.echo(
            "bitloop: interrupted; this is the best found so far, and the same command goes on "
            "from here",
            err=True,
        )
        raise typer.Exit(INTERRUPTED)


def show_result(result: SearchResult) -> None:
    """Prints a result as tables."""
    from .search_tables import result_report

    print_table(result_report(result))
