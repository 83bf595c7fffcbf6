# SPDX-License-Identifier: Apache-2.0
"""`bitloop store`: what was measured before, whether it still holds, and making room."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..errors import StoreError
from .common import JsonOption, SeedOption, print_json, print_table, progress

if TYPE_CHECKING:
    from bitloop.sim.store import Entry, Store

NAME = "store"

DAY = 24 * 3600.0

Action = Literal["list", "check", "prune"]


def command(
    action: Annotated[
        Action,
        typer.Argument(help="`list` measurements, `check` the whole file, `prune` what is old."),
    ] = "list",
    path: Annotated[
        Path | None,
        typer.Option(
            "--path", metavar="FILE", help="Store; $BITLOOP_CACHE/measurements.sqlite by default."
        ),
    ] = None,
    verify: Annotated[
        int,
        typer.Option("--verify", min=0, metavar="N", help="With `check`: measure N of them again."),
    ] = 0,
    seed: SeedOption = 0,
    older_than: Annotated[
        float | None,
        typer.Option(
            "--older-than", min=0, metavar="DAYS", help="With `prune`: not used for so long."
        ),
    ] = None,
    stale: Annotated[
        bool,
        typer.Option(
            "--stale", help="With `prune`: of cores or models whose sources have changed since."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List, check or prune the measurements that searches reuse.

    A measurement is kept by the SHA-256 of the Verilog (or the model's sources, or a board's
    build), the memory and the program, so it cannot be stale: what changed is measured anew.
    `check` reads every row and removes none; it exits 1 where one is damaged or measures
    otherwise now.

    Example: bitloop store check --verify 5

    Example: bitloop store prune --older-than 30
    """
    from bitloop.sim.store import Store

    if verify and action != "check":
        raise StoreError("--verify goes with `check`")
    if action == "prune" and older_than is None and not stale:
        raise StoreError("prune: say what to remove, --older-than DAYS or --stale")
    if action != "prune" and (older_than is not None or stale):
        raise StoreError("--older-than and --stale go with `prune`")
    if path is not None and not path.is_file():
        raise StoreError(f"{path}: there is no such store")
    store = Store(path)
    if action == "list":
        _list(store, as_json)
    elif action == "check":
        _check(store, verify, seed, as_json)
    else:
        _prune(store, older_than, stale, as_json)


def _list(store: Store, as_json: bool) -> None:
    from rich.table import Table

    entries = list(store.entries())
    if as_json:
        print_json([{**e.as_dict(), "measured": e.measured, "used": e.used} for e in entries])
        return
    table = Table(title=f"{len(entries)} measurements in {store.path}", title_justify="left")
    for heading in ("program", "network", "core", "device", "hardware", "memory"):
        table.add_column(heading)
    for heading in ("cycles", "layers", "seconds"):
        table.add_column(heading, justify="right")
    table.add_column("measured")
    for entry in entries:
        held = entry.conditions
        table.add_row(
            entry.program[:12],
            entry.network,
            held.core,
            held.device,
            held.hardware[:12],
            f"{held.memory.latency}, {held.memory.bytes_per_cycle}, {held.outstanding}",
            f"{entry.profile.cycles:,}",
            str(len(entry.layers)),
            f"{entry.seconds:.2f}",
            time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.measured)),
        )
    print_table(table)


def _check(store: Store, count: int, seed: int, as_json: bool) -> None:
    import numpy as np

    found = store.check()
    entries = list(store.entries())
    order = np.random.default_rng(seed).permutation(len(entries))
    different: list[str] = []
    again = passed_over = 0
    with progress(f"checking {store.path}") as say:
        for index in order:
            if again == count:
                break
            entry = entries[index]
            say(f"measuring again: {entry.network}, {entry.program[:12]}", again / count)
            difference = _again(store, entry)
            if difference is None:
                passed_over += 1
                continue
            again += 1
            if difference:
                different.append(f"{entry.key[:12]}: {difference}")
    if as_json:
        print_json(
            {
                "measurements": found.entries,
                "results": found.results,
                "damaged": list(found.damaged),
                "measured_again": again,
                "different": different,
                "cannot_be_measured_here": passed_over,
            }
        )
    else:
        typer.echo(
            f"{store.path}: {found.entries} measurements, {found.results} results of other work, "
            f"{len(found.damaged)} damaged"
        )
        for key in found.damaged:
            typer.echo(f"damaged: {key}")
        if count:
            typer.echo(
                f"{again} measured again, {len(different)} different; {passed_over} of other "
                "devices or sources passed over"
            )
        for line in different:
            typer.echo(f"different: {line}")
    if found.damaged or different:
        raise typer.Exit(1)


def _again(store: Store, entry: Entry) -> str | None:
    """What differs when measured again, empty where nothing does; None where that is not possible
    any more."""
    from bitloop.sim.stored import device_of, measured_again

    from ..binary import Binary

    content = store.program(entry.program)
    if content is None:
        return "the program is missing or damaged"
    device = device_of(entry, Binary.from_bytes(content, entry.network).config)
    return None if device is None else measured_again(store, entry, device) or ""


def _prune(store: Store, older_than: float | None, stale: bool, as_json: bool) -> None:
    removed = 0
    if older_than is not None:
        removed += store.prune(time.time() - older_than * DAY)
    if stale:
        keys = [entry.key for entry in store.entries() if _again_possible(store, entry) is False]
        store.remove(keys)
        removed += len(keys)
    if as_json:
        print_json({"removed": removed})
    else:
        typer.echo(f"removed {removed} from {store.path}")


def _again_possible(store: Store, entry: Entry) -> bool:
    from bitloop.sim.stored import device_of

    from ..binary import Binary

    content = store.program(entry.program)
    if content is None:
        return False
    known = entry.conditions.device in ("model", "verilator")
    # A board may be anywhere: its measurements stay.
    config = Binary.from_bytes(content, entry.network).config
    return not known or device_of(entry, config) is not None
