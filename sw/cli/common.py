# SPDX-License-Identifier: Apache-2.0
"""What the verbs share: options, parsing, error reporting, progress and output."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from bitloop.hw.config import ConfigError, CoreConfig
from bitloop.hw.config import preset as find_preset
from bitloop.hw.fields import EncodingError

from ..errors import BitloopError, DataError
from ..files import check_output

if TYPE_CHECKING:
    from ..devices.interface import MemoryModel

FAILURE = 2
"""Exit code for everything a user can put right."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

DEFAULT_PRESET = "n8"

USER_ERRORS = (BitloopError, ConfigError, EncodingError, OSError)


class VerbGroup(TyperGroup):
    """Turns errors a user can cause into one message and exit code 2, for every verb."""

    def invoke(self, ctx: Any) -> Any:
        hush_libraries()
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader of our output has gone: not a failure to report
            raise
        except USER_ERRORS as error:
            message = str(error)
            if isinstance(error, OSError) and error.filename is not None:
                message = f"{error.filename}: {error.strerror}"
            typer.echo(f"bitloop: {message}", err=True)
            raise typer.Exit(FAILURE) from None


def hush_libraries() -> None:
    """Keeps what PyTorch's libraries say about their own internals off stderr: nothing there that
    a user could act on, and errors still come through."""
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="torch")


NetworkArgument = Annotated[
    Path, typer.Argument(metavar="NET.pt2", help="Float torch.export program.")
]
BinaryArgument = Annotated[Path, typer.Argument(metavar="NET.bitloop", help="Accelerator binary.")]
DataOption = Annotated[
    Path,
    typer.Option(
        "--data", metavar="D.npz", help="Inputs `x`, float32 NCHW, and labels `y` where used."
    ),
]
EvaluationOption = Annotated[
    Path | None,
    typer.Option("--eval", metavar="E.npz", help="Inputs and labels to score on, none of --data."),
]
QuantizedOption = Annotated[
    Path, typer.Option("--output", "-o", help="Quantized program to write.")
]
WeightsOption = Annotated[
    str,
    typer.Option(
        metavar="BITS|POLICY.json",
        help='Weight bits of every layer, or a JSON object of them by layer name: {"fc": 4}; '
        "layers left out have 8. Other than 8, 4 or 2: simulated.",
    ),
]
WeightMethodOption = Annotated[
    str,
    typer.Option(
        metavar="METHOD",
        help="Scales of weights: max, mse, ocs-clip or entropy; max at 8 bits and mse below if "
        "not given.",
    ),
]
ActivationsOption = Annotated[
    int,
    typer.Option(
        metavar="BITS",
        min=2,
        max=8,
        help="Below 8: simulated, for studies; the core has 8-bit activations.",
    ),
]
PresetOption = Annotated[
    str, typer.Option("--preset", metavar="NAME", help="Core preset (see `bitloop presets`).")
]
LoadedPresetOption = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="NAME",
        help="Core the device is; default the one the binary was compiled for.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="FIELD=VALUE", help="Change a field of the preset; may be repeated."
    ),
]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        "--memory",
        metavar="latency=L,bytes=B",
        help="External memory: cycles to first data, bytes a cycle; 40 and 4 if not given.",
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="NAME",
        help="`reference` (no notion of time), `model` (its cycles equal the RTL's), `verilator` "
        "(the RTL), `serial:PORT` or `serial:PORT@BAUD` (a board) or `virtual:BOARD` (a simulated "
        "one); see `bitloop devices`.",
    ),
]
TimedDeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="NAME",
        help="`verilator` (the RTL), `model` (the same cycles, sooner), `serial:PORT` or "
        "`virtual:BOARD`.",
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


def configure(preset: str, settings: list[str] | None) -> CoreConfig:
    """The preset with its `--set` changes; raises `ConfigError`."""
    return find_preset(preset).replace(**dict(parse_setting(text) for text in settings or ()))


def configure_loaded(
    compiled_for: CoreConfig, preset: str | None, settings: list[str] | None
) -> CoreConfig:
    """The core a loaded binary is to run on: its own unless the command line says otherwise."""
    base = find_preset(preset) if preset is not None else compiled_for
    return base.replace(**dict(parse_setting(text) for text in settings or ()))


def parse_setting(text: str) -> tuple[str, int]:
    """FIELD=VALUE with an integer value; raises `ConfigError`."""
    field, equals, value = text.partition("=")
    try:
        return field.strip(), int(value, 0)
    except ValueError:
        raise ConfigError(f"--set {text}: expected FIELD=VALUE with an integer value") from None


def parse_memory(text: str | None) -> MemoryModel:
    """latency=L,bytes=B, either of which may be left out; raises `ConfigError`."""
    from ..devices.interface import MemoryModel

    values = {"latency": MemoryModel.latency, "bytes": MemoryModel.bytes_per_cycle}
    for part in text.split(",") if text else ():
        name, _, value = part.partition("=")
        name = name.strip()
        if name not in values or not value.strip().isdecimal() or int(value) < 1:
            raise ConfigError(
                f"--memory {text}: {part!r} must be latency=CYCLES (1 or more) or "
                f"bytes=BYTES_A_CYCLE (1 or more)"
            )
        values[name] = int(value)
    return MemoryModel(latency=values["latency"], bytes_per_cycle=values["bytes"])


def check_files(inputs: Mapping[str, Path | None], outputs: Mapping[str, Path | None]) -> None:
    """That what is read can be and what is written replaces nothing that is read and nothing else
    that is written, before any work is done. Files by what the user calls them. Raises `OSError`
    and `DataError`."""
    taken: dict[Path, str] = {}
    for name, path in inputs.items():
        if path is not None:
            with path.open("rb"):
                taken[path.resolve()] = name
    for name, path in outputs.items():
        if path is None:
            continue
        other = taken.setdefault(check_output(path), name)
        if other != name:
            raise DataError(f"{other} and {name} both name {path}; give each a file of its own")


def simulation_notes(bits: Mapping[str, int], activations: int) -> list[str]:
    """What the core does not have of a network with these weight bits by layer and so many bits of
    activations."""
    widths = find_preset(DEFAULT_PRESET).weight_widths
    notes = []
    for width in sorted(set(bits.values()) - set(widths)):
        stored = min(w for w in widths if w > width)
        listed = ", ".join(map(str, sorted(widths)))
        notes.append(
            f"{width}-bit weights are a simulation: the core has widths {listed} and runs them as "
            f"{stored}-bit ones"
        )
    if activations < 8:
        notes.append(
            f"{activations}-bit activations are a simulation: the core has 8-bit activations, and "
            "runs these no faster"
        )
    return notes


class Say(Protocol):
    def __call__(self, message: str, fraction: float | None = None) -> None:
        """Says what is being done, and the fraction of it that is."""


@contextmanager
def progress(first: str) -> Iterator[Say]:
    """Shows what is going on, on stderr; yields the function that says what comes next.

    A terminal gets one line with a spinner, anything else a line a message.
    """
    console = Console(stderr=True)
    last = ""

    def line(message: str, fraction: float | None = None) -> None:
        nonlocal last
        if message != last:
            typer.echo(message, err=True)
        last = message

    if not console.is_terminal:
        line(first)
        yield line
        return
    with console.status(escape(first)) as status:

        def spin(message: str, fraction: float | None = None) -> None:
            share = "" if fraction is None else f" {fraction:.0%}"
            status.update(escape(message) + share)

        yield spin


def print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def print_table(table: object) -> None:
    """A rich renderable on stdout, wide enough for its content where that is not a terminal."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)
