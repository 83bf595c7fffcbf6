# SPDX-License-Identifier: Apache-2.0
"""`bitloop train`: quantization-aware training of an exported program."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .common import (
    INTERRUPTED,
    ActivationsOption,
    DataOption,
    EvaluationOption,
    JsonOption,
    NetworkArgument,
    QuantizedOption,
    SeedOption,
    WeightsOption,
    check_files,
    print_json,
    progress,
    simulation_notes,
)

if TYPE_CHECKING:
    from ..quantize.training import State

NAME = "train"


def command(
    network: NetworkArgument,
    data: DataOption,
    output: QuantizedOption,
    evaluation: EvaluationOption = None,
    weights: WeightsOption = "8",
    method: Annotated[
        Literal["ste", "lsq", "lsq+", "pact", "dorefa", "dsq", "sat"],
        typer.Option(help="How quantizers are trained."),
    ] = "lsq+",
    epochs: Annotated[int, typer.Option(min=1, help="Times that every image is seen.")] = 10,
    minutes: Annotated[
        float | None,
        typer.Option(metavar="M", help="Ends the training after M minutes if epochs take longer."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images a step.")] = 128,
    rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 0.01,
    distill: Annotated[
        bool,
        typer.Option("--distill", help="Learn from the float network too; needs no labels."),
    ] = False,
    sharpness: Annotated[
        float,
        typer.Option(metavar="RHO", help="Sharpness-aware quantization, 0.05 say; twice the time."),
    ] = 0.0,
    auxiliary: Annotated[
        bool, typer.Option("--auxiliary", help="Train a full-precision auxiliary module along.")
    ] = False,
    augment: Annotated[
        Literal["none", "shift", "mirror-shift"],
        typer.Option(help="What is done to images at random."),
    ] = "none",
    activations: ActivationsOption = 8,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="C", help="Where to keep the training; default OUTPUT.checkpoint."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint, if there is one.")
    ] = False,
    threads: Annotated[int, typer.Option(min=1, help="Processor threads.")] = 2,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Train a network with quantized weights and activations, and export exactly its integers.

    Ctrl-C ends after the step under way and keeps the checkpoint; the same command with --resume
    goes on from there. Labels are needed except with --distill. With --eval the float and the
    integer network are scored on its inputs.

    Example: bitloop train net.pt2 --data d.npz --weights 4 --distill --minutes 15 -o net.w4.pt2
    """  # fmt: skip
    kept = checkpoint or output.with_name(f"{output.name}.checkpoint")
    check_files(
        {"NET.pt2": network, "--data": data, "--eval": evaluation},
        {"--output": output, "--checkpoint": kept},
    )
    with progress("loading PyTorch") as say:
        from ..dataset import load_dataset
        from ..frontend.torch_export import load_program
        from ..programs import save_program
        from ..quantize.training import TrainingOptions, train
        from ..quantize.training.policy import load_policy
        from ..quantize.training.score import float_accuracy, integer_accuracy

        options = TrainingOptions(
            method=method, epochs=epochs, minutes=minutes, batch=batch, rate=rate, distill=distill,
            sharpness=sharpness, auxiliary=auxiliary, augmentation=augment,
            activation_bits=activations, seed=seed, threads=threads,
        )  # fmt: skip
        policy = load_policy(weights)
        program = load_program(network)
        training = load_dataset(data)
        scoring = load_dataset(evaluation) if evaluation else None
        before = None
        if scoring is not None:
            say("scoring the float network")
            before = float_accuracy(program, scoring)
        say(f"training {network} with {len(training)} inputs")
    with shown() as show:
        result = train(
            program, training, policy, options, checkpoint=kept, resume=resume, progress=show
        )
    if not result.finished:
        typer.echo(
            f"bitloop: stopped after {result.steps} steps; {kept} keeps them: the same command "
            "with --resume goes on",
            err=True,
        )
        raise typer.Exit(INTERRUPTED)
    with progress("writing") as say:
        save_program(result.program, output)
        after = None
        if scoring is not None and activations == 8:
            say("scoring the integer network")
            after = integer_accuracy(result.program, scoring)
        elif scoring is not None:
            say("scoring the simulated network")
            after = float_accuracy(result.program, scoring)
    if checkpoint is None:
        kept.unlink(missing_ok=True)
    notes = simulation_notes(result.parameters.bits, activations)
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    if as_json:
        print_json(
            {
                "output": str(output),
                "method": method,
                "weight_bits": dict(result.parameters.bits),
                "activation_bits": activations,
                "steps": result.steps,
                "seconds": result.seconds,
                "losses": list(result.losses),
                "accuracy_float": before,
                "accuracy": after,
                "seed": seed,
                "notes": notes,
            }
        )
        return
    loss = f", loss {result.losses[-1]:.4f} in the last epoch" if result.losses else ""
    typer.echo(f"{result.steps} steps in {result.seconds:.0f} s{loss}")
    if before is not None and after is not None:
        kind = "integer network" if activations == 8 else "simulation"
        typer.echo(f"accuracy: {before:.2%} float, {after:.2%} {kind}")
    typer.echo(f"wrote {output}")


@contextmanager
def shown() -> Iterator[Callable[[State], None]]:
    """Yields what shows a training's state on stderr: a bar on a terminal, a line an epoch
    elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines()
        return
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), console=console
    ) as bar:
        task = bar.add_task("starting", total=1.0)

        def show(state: State) -> None:
            bar.update(task, completed=state.fraction, description=describe(state))

        yield show


def _lines() -> Callable[[State], None]:
    epoch = 0

    def show(state: State) -> None:
        nonlocal epoch
        if state.step * state.epochs % state.steps == 0 and state.epoch != epoch:
            epoch = state.epoch
            typer.echo(describe(state), err=True)

    return show


def describe(state: State) -> str:
    """A line for people."""
    minutes, seconds = divmod(round(state.seconds_left), 60)
    return (
        f"epoch {state.epoch} of {state.epochs}, {state.images_per_second:.0f} images/s, "
        f"loss {state.loss:.4f}, {minutes}:{seconds:02d} left"
    )
