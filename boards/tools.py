# SPDX-License-Identifier: Apache-2.0
"""Runs the WebAssembly tools as processes of their own, tells of their phases, and keeps logs."""

from __future__ import annotations

import importlib.metadata
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from bitloop.errors import DeviceError
from bitloop.sim.cache import cache_folder, prune

Say = Callable[[str], None]
"""Told what is being done."""

_YOSYS = re.compile(r"^\d+(?:\.\d+)*\. Executing (\w+) pass")
_YOSYS_PHASES = {
    "VERILOG": "reading Verilog",
    "PROC": "processes",
    "MEMORY_LIBMAP": "block RAMs",
    "ABC9": "mapping logic to LUTs",
    "FLATTEN": "flattening",
    "JSON": "writing the netlist",
}
_NEXTPNR_PHASES = (
    ("Packing constants", "packing"),
    ("Pack IOBs", "packing"),
    ("Creating initial analytic placement", "placing"),
    ("Running HeAP", "placing"),
    ("Running Static placer", "placing"),
    ("Running simulated annealing", "refining the placement"),
    ("Routing globals", "routing clocks"),
    ("Running router", "routing"),
    ("Critical path report", "timing"),
)


@dataclass(frozen=True)
class Spent:
    """What a tool took."""

    seconds: float
    memory_bytes: int
    """Most that it held at a time."""
    processor_seconds: float = 0.0


def phase_of(line: str) -> str | None:
    """What a tool has begun, from a line of its output; None if it tells of nothing new."""
    found = _YOSYS.match(line)
    if found:
        return _YOSYS_PHASES.get(found[1])
    return next((phase for text, phase in _NEXTPNR_PHASES if text in line), None)


class Terminated(KeyboardInterrupt):
    """SIGTERM came while a tool ran."""


_ENDS_WITH_PARENT = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
if os.getppid() != {parent}:
    sys.exit(1)
"""
"""What a tool's process begins with."""


def _terminate(number: int, frame: object) -> NoReturn:
    raise Terminated


@contextmanager
def _termination_raised() -> Iterator[None]:
    """SIGTERM raises `Terminated` inside, unless something else is done on it already, or this is
    not the main thread, which alone can do so."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def run_tool(
    call: str,
    arguments: Sequence[str],
    folder: Path,
    what: str,
    say: Say,
    log: str = "log",
    own_log: str | None = None,
) -> Spent:
    """Run `module:function` of Python with `arguments` in `folder`, its output in the file `log`
    there; `what` it does, with its phases, goes to `say`. A tool whose output breaks off keeps a
    log itself, `own_log`, which then takes its place.

    Raises `DeviceError` with the errors of the log if it fails, and where the log is. When
    interrupted, or told to terminate (`Terminated`), it ends the tool first; where this process is
    killed outright, Linux ends the tool.
    """
    module, _, function = call.partition(":")
    # YoWASP's take their arguments, others read sys.argv.
    given = "sys.argv[1:]" if function.startswith("run_") else ""
    code = _ENDS_WITH_PARENT.format(parent=os.getpid())
    code += f"import {module}; sys.exit({module}.{function}({given}))"
    started = time.monotonic()
    say(what)
    last = ""
    path = folder / log
    # Whole lines, for whoever follows it.
    with open(path, "w", buffering=1) as file, _termination_raised():
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                file.write(line)
                phase = phase_of(line)
                if phase and phase != last:
                    say(f"{what}: {phase}")
                    last = phase
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            say(f"interrupted while {what}; the log is {path}")
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
    if own_log is not None and (folder / own_log).is_file():
        (folder / own_log).replace(path)
    if process.returncode:
        lines = path.read_text(errors="replace").splitlines()
        errors = [line for line in lines if "ERROR" in line or "Error:" in line] or lines[-20:]
        raise DeviceError(
            f"{what} failed ({module}); its log is {path}:\n" + "\n".join(errors[:10])
        )
    processor = usage.ru_utime + usage.ru_stime
    return Spent(time.monotonic() - started, usage.ru_maxrss * 1024, processor)


def version_of(package: str) -> str:
    """Of an installed tool; raises `DeviceError` if it is not there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise DeviceError(
            f"{package} is not installed; place and route needs the extra `boards`: in Bitloop's "
            "folder, `pip install -e '.[boards]'`"
        ) from None


def results_folder() -> Path:
    """Where results are kept, those asked for longest ago removed where there are too many."""
    folder = cache_folder() / "boards"
    folder.mkdir(exist_ok=True)
    prune(folder, locks_tell=True)
    return folder


def write_whole(path: Path, text: str) -> None:
    """A file that is there is complete."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text)
    part.rename(path)
