# SPDX-License-Identifier: Apache-2.0
"""`bitloop sensitivity`: what each layer loses at each width, by one method or several."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import DataError, SearchError
from .common import (
    DataOption,
    EvaluationOption,
    JsonOption,
    NetworkArgument,
    SeedOption,
    check_files,
    print_json,
    print_table,
    progress,
)

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table
    from rich.text import Text

    from ..search.problem import Losses
    from ..search.sensitivity import Sensitivity
    from ..search.sensitivity.compare import Comparison

NAME = "sensitivity"

NAMES = ("kl", "mse", "sqnr", "hessian", "limpq", "entropy", "weight-mse", "alps")
"""Of `search.sensitivity.METHODS`, which takes seconds to import."""


def command(
    network: NetworkArgument,
    data: DataOption,
    evaluation: EvaluationOption = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method", metavar="NAME", help=f"One of {', '.join(NAMES)}; may be repeated."
        ),
    ] = None,
    widths: Annotated[
        str, typer.Option(metavar="W,W", help="Weight bits, 2 to 8, the widest for reference.")
    ] = "8,4,2",
    fixed: Annotated[
        list[str] | None,
        typer.Option(
            "--fixed", metavar="LAYER", help="Stays at the widest in --compare; may be repeated."
        ),
    ] = None,
    policies: Annotated[
        int | None,
        typer.Option(
            "--compare", metavar="N", min=3, help="Random policies to run, against the sums."
        ),
    ] = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Show what each layer loses when its weights alone get narrower.

    Losses are 0 at the widest width and never fall with the width; each method has its own unit.
    At most 256 images rank. With --compare, random policies run through the golden model, and the
    rank correlation (Spearman) says how well the sum of the layers' losses orders them: labels, if
    there are, make it the cross-entropy, otherwise it is the divergence from the float network.
    Without --eval one half of the data ranks and the other half compares.

    Example: bitloop sensitivity net.pt2 --data d.npz --method kl --method sqnr --compare 48
    """
    sizes = parse_widths(widths)
    check_files({"NET.pt2": network, "--data": data, "--eval": evaluation}, {})
    with progress("loading PyTorch") as say:
        from ..dataset import load_dataset
        from ..frontend.torch_export import load_program
        from ..search.sensitivity import DEFAULT, IMAGES, Context, uniform_graphs
        from ..search.sensitivity.compare import compare

        chosen = [find_method(name) for name in dict.fromkeys(methods or [DEFAULT])]
        images = load_dataset(data)
        other = load_dataset(evaluation) if evaluation else None
        if policies and other is None:
            images, other = images.halves(seed)
        images = images.take(slice(IMAGES))
        program = load_program(network)
        say("quantizing")
        graphs = uniform_graphs(program, images.x, sizes)
        context = Context.of(program, graphs, images.x, images.y, seed=seed, progress=say)
        unknown = sorted(set(fixed or ()) - set(context.layers))
        if unknown:
            raise DataError(
                f"--fixed: no layer {unknown[0]!r}; layers: {', '.join(context.layers)}"
            )
        whole = None
        if policies and other is not None:
            whole = Context.of(program, graphs, other.x, other.y, seed=seed, progress=say)
        losses, comparison = {}, None
        for method in chosen:
            say(f"sensitivities by {method.name}")
            losses[method.name] = method(context)
        if policies and whole is not None:
            say(f"running {policies} policies")
            comparison = compare(whole, losses, policies, fixed=fixed or ())
    if as_json:
        print_json(as_dict(losses, comparison))
    else:
        print_table(report(losses, comparison))


def parse_widths(text: str) -> tuple[int, ...]:
    """`8,4,2` as numbers, widest first; raises `DataError`."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 2 <= int(part) <= 8 for part in parts) or len(parts) < 2:
        raise DataError(f"--widths {text}: expected two or more of 2 to 8, such as 8,4,2")
    return tuple(sorted({int(part) for part in parts}, reverse=True))


def find_method(name: str) -> Sensitivity:
    from ..search.sensitivity import METHODS

    if name not in METHODS:
        raise SearchError(f"no sensitivity {name!r}; there are {', '.join(METHODS)}")
    return METHODS[name]


def as_dict(losses: dict[str, Losses], comparison: Comparison | None) -> dict[str, object]:
    """The JSON form; its keys are a public contract."""
    result: dict[str, object] = {
        "methods": {
            name: {layer: {str(width): loss for width, loss in row.items()}
                   for layer, row in table.items()}
            for name, table in losses.items()
        }
    }  # fmt: skip
    if comparison is not None:
        result["comparison"] = {
            "loss": comparison.unit,
            "spearman": {
                name: None if math.isnan(value) else value
                for name, value in comparison.spearman.items()
            },
            "policies": list(comparison.policies),
            "losses": list(comparison.losses),
            "sums": {name: list(values) for name, values in comparison.sums.items()},
        }
    return result


def report(losses: dict[str, Losses], comparison: Comparison | None) -> Group:
    """The table of losses, a cell's colour its place among the method's, and the comparison."""
    from rich.console import Group

    parts: list[RenderableType] = ["loss by layer, method and weight bits", loss_table(losses)]
    if comparison is not None:
        count = len(comparison.losses)
        parts.append(f"Spearman of sums and the {comparison.unit} of {count} random policies")
        parts.append(comparison_table(comparison))
    return Group(*parts)


def loss_table(losses: dict[str, Losses]) -> Table:
    from rich.table import Table

    table = Table()
    table.add_column("layer")
    first = next(iter(losses.values()))
    narrower = [width for width in next(iter(first.values()), {})][1:]
    for name in losses:
        for width in narrower:
            table.add_column(f"{name}\n{width} bits", justify="right")
    ranges = {
        name: positive(row[width] for row in by_layer.values() for width in narrower)
        for name, by_layer in losses.items()
    }
    for layer in first:
        cells = [
            heat(losses[name][layer][width], ranges[name]) for name in losses for width in narrower
        ]
        table.add_row(layer, *cells)
    return table


def comparison_table(comparison: Comparison) -> Table:
    from rich.table import Table

    table = Table()
    table.add_column("method")
    table.add_column("Spearman", justify="right")
    for name, value in comparison.spearman.items():
        table.add_row(name, f"{value:.2f}")
    return table


def positive(values: Iterable[float]) -> tuple[float, float]:
    """Smallest and largest value above 0."""
    found = [value for value in values if value > 0]
    return (min(found), max(found)) if found else (1.0, 1.0)


def heat(value: float, limits: tuple[float, float]) -> Text:
    """The number, on a background from dark blue to red by its logarithm's place in `limits`."""
    from rich.text import Text

    low, high = limits
    place = 0.0
    if value > low:
        place = math.log(value / low) / math.log(high / low)
    red, blue = round(40 + 180 * place), round(110 * (1 - place))
    return Text(f"{value:.3g}", style=f"white on rgb({red},40,{blue})")
