# SPDX-License-Identifier: Apache-2.0
"""Verilator builds, cached by content: a build is named by the hash of everything that goes into
it: Verilog, C++ sources, flags and tool versions."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bitloop.errors import DeviceError

from .cache import built_once, content_key
from .toolchain import MAKE_JOBS, Toolchain, find_toolchain

Progress = Callable[[str, float], None]
"""Called with what is being done and the fraction of it done, 0 to 1."""

SPEED_ARGUMENTS = (
    "-O3",
    "--x-assign",
    "fast",
    "--x-initial",
    "fast",
    "--noassert",
    "--output-split",
    "20000",
    "--output-split-cfuncs",
    "500",
)


@dataclass(frozen=True)
class Recipe:
    """What is built: one Verilog top with C++ around it."""

    name: str
    """Shown to the user, e.g. `core n16`."""
    top: str
    verilog: str
    sources: tuple[Path, ...]
    """C++ files compiled and linked in; found by absolute path."""
    product: str
    """File name of the result: an executable or, with `-shared`, a library."""
    headers: tuple[Path, ...] = ()
    """C++ headers the sources include from their own folder; part of the hash."""
    control: str = ""
    """Verilator control file: lint rules, public signals."""
    arguments: tuple[str, ...] = ()
    """Further Verilator arguments."""
    compiler_flags: str = ""
    linker_flags: str = ""
    optimization: str = "-O2"
    """Of code that runs every cycle."""

    def key(self, toolchain: Toolchain) -> str:
        """24 hex digits that change with anything that could change the product."""
        parts = [toolchain.version, *toolchain.make_variables, self.top, self.verilog, self.product]
        parts += [self.control, *self.arguments, self.compiler_flags, self.linker_flags]
        parts += [self.optimization, *SPEED_ARGUMENTS]
        parts += [path.read_text() for path in (*self.sources, *self.headers)]
        return content_key(*parts)


def build(recipe: Recipe, progress: Progress | None = None) -> Path:
    """The product's path, built if the cache lacks it; raises `DeviceError` with the build log."""
    toolchain = find_toolchain()
    report = progress or _silent

    def make(folder: Path) -> None:
        report(f"building {recipe.name}", 0.0)
        _make(recipe, toolchain, folder, report)
        _keep_only(folder, recipe.product)
        report(f"building {recipe.name}", 1.0)

    return built_once(f"{recipe.top}-{recipe.key(toolchain)}", recipe.product, make)


def _silent(message: str, fraction: float) -> None:
    pass


def _make(recipe: Recipe, toolchain: Toolchain, folder: Path, report: Progress) -> None:
    verilog = folder / f"{recipe.top}.v"
    verilog.write_text(recipe.verilog)
    inputs = [verilog]
    if recipe.control:
        control = folder / "control.vlt"
        control.write_text(recipe.control)
        inputs.insert(0, control)
    objects = folder / "obj"
    command = [str(toolchain.verilator), "--cc", "--exe", "--Mdir", str(objects)]
    command += ["--prefix", "Vtop", "--top-module", recipe.top, "-o", f"../{recipe.product}"]
    command += ["-Wno-fatal", "-Wno-lint", "-Wno-style"]
    if recipe.compiler_flags:
        command += ["-CFLAGS", recipe.compiler_flags]
    if recipe.linker_flags:
        command += ["-LDFLAGS", recipe.linker_flags]
    command += [*SPEED_ARGUMENTS, *recipe.arguments, *map(str, [*recipe.sources, *inputs])]
    log: list[str] = []
    _run(command, toolchain, folder, log, lambda line: None, recipe.name)
    report(f"building {recipe.name}", 0.1)

    total = len(list(objects.glob("*.cpp"))) + len(recipe.sources) + 4  # runtime and headers
    compiled = 0

    def count(line: str) -> None:
        nonlocal compiled
        if line.startswith(toolchain.compiler):
            compiled += 1
            report(f"building {recipe.name}", 0.1 + 0.9 * min(1.0, compiled / total))

    command = ["make", "-j", str(MAKE_JOBS), "-C", str(objects), "-f", "Vtop.mk"]
    command += [*toolchain.make_variables, "OBJCACHE=", f"OPT_FAST={recipe.optimization}"]
    command += [f"OPT_GLOBAL={recipe.optimization}"]
    _run(command, toolchain, folder, log, count, recipe.name)


def _run(
    command: list[str],
    toolchain: Toolchain,
    folder: Path,
    log: list[str],
    on_line: Callable[[str], None],
    name: str,
) -> None:
    with subprocess.Popen(
        command,
        cwd=folder,
        env=toolchain.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            log.append(line)
            on_line(line)
    if process.returncode:
        errors = [line for line in log if "error" in line.lower()][:10] or log[-20:]
        raise DeviceError(f"building {name} failed ({Path(command[0]).name}):\n{''.join(errors)}")


def _keep_only(folder: Path, product: str) -> None:
    """Objects and generated C++ are ten times the product and never used again."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != product and path.suffix not in (".v", ".vlt"):
            path.unlink()
