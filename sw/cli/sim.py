# SPDX-License-Identifier: Apache-2.0
"""`bitloop sim`: the cocotb regression of the RTL on Verilator."""

from __future__ import annotations

from typing import Annotated

import typer

from .common import JsonOption, PresetOption, SeedOption, print_json, progress

NAME = "sim"


def command(
    preset: PresetOption = "n4",
    seed: SeedOption = 0,
    waves: Annotated[bool, typer.Option("--waves", help="Keep a VCD of every bench.")] = False,
    only: Annotated[
        str | None,
        typer.Option("--only", metavar="REGEX", help="Run the tests whose bench.test matches."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run the cocotb regression: every component and the whole core against NumPy models.

    Random stimulus, back-pressure and memory latency come from the seed. Exits with 1 if a test
    fails, naming bench, test and seed. Builds are cached by content.

    Example: bitloop sim --preset n8 --seed 7 --only array
    """
    from bitloop.hw.config import preset as find_preset
    from bitloop.sim.regression import TestResult, run_regression

    find_preset(preset)
    with progress(f"regression of {preset}, seed {seed}") as say:

        def show(result: TestResult) -> None:
            if not as_json:
                typer.echo(f"{result} ({result.seconds:.1f} s)")

        results = run_regression(preset, seed, waves, filter=only, progress=say, on_result=show)
    failed = [result for result in results if result.failed]
    if as_json:
        keys = ("bench", "name", "preset", "seed", "passed", "refused", "seconds", "message")
        print_json([{key: getattr(result, key) for key in keys} for result in results])
    else:
        passed = sum(result.passed for result in results)
        refused = sum(result.refused for result in results)
        layers = f", {refused} layers refused by the compiler" if refused else ""
        typer.echo(f"{passed} of {len(results)} tests passed{layers}")
        for result in failed:
            if result.log is not None:
                typer.echo(f"log of {result.bench}.{result.name}: {result.log}")
        for path in sorted({str(result.waves) for result in results if result.waves}):
            typer.echo(f"waves: {path}")
    if failed:
        raise typer.Exit(1)
