# SPDX-License-Identifier: Apache-2.0
"""`bitloop quantize`: post-training quantization of an exported program."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from .common import (
    ActivationsOption,
    DataOption,
    JsonOption,
    NetworkArgument,
    QuantizedOption,
    WeightMethodOption,
    WeightsOption,
    check_files,
    print_json,
    print_table,
    progress,
    simulation_notes,
)

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from ..dataset import Dataset
    from ..quantize import LayerError, QuantizationParameters

NAME = "quantize"


def command(
    network: NetworkArgument,
    data: DataOption,
    output: QuantizedOption,
    weights: WeightsOption = "8",
    method: Annotated[
        str,
        typer.Option(
            metavar="METHOD",
            help="Ranges of activations: minmax, ema[:decay], percentile[:p], kl, mse, entropy, "
            "histogram or redistribution (hybrid asymmetric).",
        ),
    ] = "minmax",
    weight_method: WeightMethodOption = "default",
    per_tensor: Annotated[
        bool, typer.Option("--per-tensor", help="One weight scale a layer, not one a channel.")
    ] = False,
    shift_only: Annotated[
        bool,
        typer.Option("--shift-only", help="Powers of two for all scales: requantization shifts."),
    ] = False,
    activations: ActivationsOption = 8,
    symmetric: Annotated[
        bool, typer.Option("--symmetric", help="Activations with the zero-point in the middle.")
    ] = False,
    repair: Annotated[
        list[str] | None,
        typer.Option(
            "--repair",
            metavar="NAME",
            help="May be repeated, in order: fold-batch-norm, equalize, split-outliers, rounding, "
            "batch-norm, bias-correction.",
        ),
    ] = None,
    report: Annotated[
        bool,
        typer.Option(
            "--report",
            help="Signal to quantization noise of every layer, worst first; with labels, accuracy "
            "on the calibration inputs.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Quantize a float network: symmetric weights per channel, asymmetric 8-bit activations.

    The data's inputs calibrate; its labels are used by --report only.

    Example: bitloop quantize net.pt2 --data calibration.npz --weights 4 --method mse -o net.w4.pt2
    """
    check_files({"NET.pt2": network, "--data": data}, {"--output": output})
    with progress("loading PyTorch") as say:
        from ..dataset import load_dataset
        from ..frontend.torch_export import load_program
        from ..programs import save_program
        from ..quantize import ActivationScheme, write_program
        from ..quantize.post_training import decide
        from ..quantize.training.policy import load_policy

        policy = load_policy(weights)
        dataset = load_dataset(data)
        say(f"quantizing {network} with {len(dataset)} inputs")
        program, parameters = decide(
            load_program(network), dataset.x, policy, method=method,
            scheme=ActivationScheme(activations, symmetric, shift_only),
            weight_method=weight_method, per_tensor=per_tensor, repairs=tuple(repair or ()),
        )  # fmt: skip
        quantized = write_program(program, parameters)
        save_program(quantized, output)
        result: dict[str, object] = {"output": str(output), "weight_bits": dict(parameters.bits)}
        notes = simulation_notes(parameters.bits, activations)
        errors: list[LayerError] = []
        if report or as_json:
            say("comparing layers with the float network")
            errors = _compare(program, parameters, quantized, dataset, result)
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    if as_json:
        print_json({**result, "notes": notes})
        return
    if report:
        _print(errors, result)
    typer.echo(f"wrote {output}")


def _compare(
    program: ExportedProgram,
    parameters: QuantizationParameters,
    quantized: ExportedProgram,
    data: Dataset,
    result: dict[str, object],
) -> list[LayerError]:
    """Errors of the layers; these and the accuracies go to `result`."""
    from ..frontend.torch_export import import_program
    from ..programs import run_program
    from ..quantize import integer_accuracy, layer_errors
    from ..quantize.analysis import as_json

    errors = layer_errors(program, parameters, data.x)
    result["layers"] = [as_json(error) for error in errors]
    if data.y is not None:
        scores = run_program(program, data.x, logits=True)
        result["accuracy_float"] = float((scores.reshape(len(data), -1).argmax(1) == data.y).mean())
        start = time.perf_counter()
        result["accuracy"] = integer_accuracy(import_program(quantized, "net"), data.x, data.y)
        result["images_per_second"] = len(data) / (time.perf_counter() - start)
    return errors


def _print(errors: list[LayerError], result: Mapping[str, object]) -> None:
    from rich.table import Table

    table = Table(title="layers, worst first", title_justify="left")
    table.add_column("layer")
    for heading in ("bits", "SQNR dB", "MSE", "weights' SQNR dB"):
        table.add_column(heading, justify="right")
    for error in errors:
        table.add_row(
            error.layer, str(error.bits), f"{error.sqnr:.1f}", f"{error.mse:.3g}",
            f"{error.weight_sqnr:.1f}",
        )  # fmt: skip
    print_table(table)
    if "accuracy" in result:
        typer.echo(
            f"accuracy on these inputs: {result['accuracy_float']:.2%} float, "
            f"{result['accuracy']:.2%} integer (golden model)"
        )
