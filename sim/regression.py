# SPDX-License-Identifier: Apache-2.0
"""The regression: every cocotb bench in `sim/benches` on Verilator, then random layers.

A bench module defines `dut(preset)`, which returns the name of its top module and either an
Amaranth component or Verilog text, and cocotb tests. Tests take their seed from `BITLOOP_SEED` and
the preset from `BITLOOP_PRESET` (see `bench_seed` and `bench_config`); the top has the ports `clk`
and `rst`. Only its ports are visible to cocotb: with every signal public, compiling the core takes
ten times as long.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shutil
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from bitloop.errors import DeviceError
from bitloop.hw.config import CoreConfig
from bitloop.hw.config import preset as find_preset

from .build import Progress, Recipe, build
from .cache import cache_folder, prune_unlocked

BENCH_PACKAGE = "bitloop.sim.benches"
TIMESCALE = "1ns/1ps"
ALL = re.compile("")


@dataclass(frozen=True)
class TestResult:
    """One cocotb test of one bench."""

    __test__ = False  # not a pytest class

    bench: str
    name: str
    preset: str
    seed: int
    passed: bool
    """False for a layer that was refused too."""
    seconds: float
    """Wall time."""
    message: str = ""
    """Why it failed or was refused, "" if it passed."""
    log: Path | None = None
    """Output of a failed bench."""
    waves: Path | None = None
    """VCD of the whole bench, where asked for."""
    refused: bool = False
    """The compiler does not take this random layer: it says nothing about the core."""

    @property
    def failed(self) -> bool:
        return not self.passed and not self.refused

    def __str__(self) -> str:
        verdict = "passed"
        if not self.passed:
            verdict = f"{'refused' if self.refused else 'FAILED'}: {self.message}"
        return f"{self.bench}.{self.name} (preset {self.preset}, seed {self.seed}) {verdict}"


@dataclass(frozen=True)
class Port:
    """A port of a Verilog module."""

    name: str
    direction: str
    """`input`, `output` or `inout`."""
    width: int


def bench_seed() -> int:
    """Seed of the running regression, for use inside a bench."""
    return int(os.environ.get("BITLOOP_SEED", "0"))


def bench_config() -> CoreConfig:
    """Config of the running regression, for use inside a bench."""
    return find_preset(os.environ.get("BITLOOP_PRESET", "n4"))


def bench_names() -> tuple[str, ...]:
    """Names of the benches there are, `bench_` removed, in alphabetical order."""
    folder = Path(__file__).parent / "benches"
    return tuple(sorted(path.stem.removeprefix("bench_") for path in folder.glob("bench_*.py")))


def run_regression(
    preset: str = "n4",
    seed: int = 0,
    waves: bool = False,
    filter: str | None = None,
    benches: Iterable[str] | None = None,
    output: Path | None = None,
    progress: Progress | None = None,
    on_result: Callable[[TestResult], None] | None = None,
    layers: int = 72,
) -> list[TestResult]:
    """Build and run the benches one after the other; never raises for a failing test.

    `filter`: a regular expression searched for in `bench.test`; `benches`: names to run instead of
    all; `output`: where logs and waves go (default: `runs` in the build cache); `layers`: random
    layers to run on the whole core, as tests `layers.KIND-wBITS`. Raises `DeviceError` if the
    filter matches no test.
    """
    try:
        pattern = re.compile(filter or "")
    except re.error as error:
        raise DeviceError(f"test filter {filter!r} is not a regular expression: {error}") from None
    results: list[TestResult] = []
    for name in benches if benches is not None else bench_names():
        module = importlib.import_module(f"{BENCH_PACKAGE}.bench_{name}")
        tests = [test for test in cocotb_tests(module) if pattern.search(f"{name}.{test}")]
        if not tests:
            continue
        for result in run_bench(module, preset, seed, waves, tests, output, progress):
            results.append(result)
            if on_result is not None:
                on_result(result)
    if benches is None and layers:
        config = find_preset(preset)
        results += run_layers(config, seed, layers, waves, pattern, output, progress, on_result)
    if not results:
        raise DeviceError(
            f"no test matches {filter!r}; there are {', '.join((*bench_names(), 'layers'))}"
        )
    return results


def run_bench(
    module: ModuleType,
    preset: str,
    seed: int,
    waves: bool = False,
    tests: Iterable[str] | None = None,
    output: Path | None = None,
    progress: Progress | None = None,
) -> list[TestResult]:
    """Run one bench module's tests (all, or those named); one result a test.

    A bench that does not build or whose simulation dies counts as failed under the name of the
    tests that were to run.
    """
    name = module.__name__.rpartition(".")[2].removeprefix("bench_")
    selected = list(tests) if tests is not None else cocotb_tests(module)
    runs = output or cache_folder() / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    if output is None:
        prune_unlocked(runs)
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-{preset}-{seed}-", dir=runs))
    try:
        top, verilog = _verilog_of(module, preset)
        program = build(_recipe(name, top, verilog, waves), progress)
        report = _simulate(module, program, top, preset, seed, waves, selected, folder)
        results = _read_results(report, name, preset, seed, folder, waves)
    except Exception as error:  # a bench that breaks must not hide the others' results
        message = f"{type(error).__name__}: {error}"
        results = [
            TestResult(name, test, preset, seed, False, 0.0, message, _log(folder))
            for test in selected
        ]
    ran = {result.name for result in results}
    missing = [test for test in selected if not any(_same_test(test, done) for done in ran)]
    results += [
        TestResult(name, test, preset, seed, False, 0.0, "did not run", _log(folder))
        for test in missing
    ]
    if not waves and all(result.passed for result in results):
        shutil.rmtree(folder, ignore_errors=True)
    return results


def run_layers(
    config: CoreConfig,
    seed: int,
    count: int,
    waves: bool = False,
    pattern: re.Pattern[str] = ALL,
    output: Path | None = None,
    progress: Progress | None = None,
    on_result: Callable[[TestResult], None] | None = None,
) -> list[TestResult]:
    """Random layers numbered from seed * count on, each a result; its own number is its seed. One
    more, `refused`, fails if too many were."""
    from .random_layers import cases, run_case, too_many

    results = []
    for number, kind, bits in cases(seed * count, count):
        if not pattern.search(f"layers.{kind}-w{bits}"):
            continue
        runs = output or cache_folder() / "runs"
        runs.mkdir(parents=True, exist_ok=True)
        vcd = runs / f"layers-{config.name}-{kind}-w{bits}-{number}.vcd" if waves else None
        began = time.monotonic()
        case = run_case(config, number, kind, bits, progress, vcd)
        result = TestResult(
            "layers", f"{kind}-w{bits}", config.name, number, case.passed,
            time.monotonic() - began, case.message, None, vcd, case.refused,
        )  # fmt: skip
        results.append(result)
        if on_result is not None:
            on_result(result)
    untried = too_many(sum(result.refused for result in results), len(results))
    if untried:
        results.append(TestResult("layers", "refused", config.name, seed, False, 0.0, untried))
        if on_result is not None:
            on_result(results[-1])
    return results


def cocotb_tests(module: ModuleType) -> list[str]:
    """Names of a module's cocotb tests, in the order they are defined; parametrized ones once."""
    from cocotb._decorators import Test, TestGenerator

    return [n for n, v in vars(module).items() if isinstance(v, Test | TestGenerator)]


def verilog_ports(verilog: str, top: str) -> tuple[Port, ...]:
    """Ports of module `top` in Verilog as Yosys writes it; raises `DeviceError` if absent."""
    match = re.search(
        rf"^module\s+\\?{re.escape(top)}\s*\((.*?)\)\s*;(.*?)^endmodule", verilog, re.M | re.S
    )
    if match is None:
        raise DeviceError(f"the Verilog has no module {top!r}")
    names = {name.strip().lstrip("\\") for name in match[1].split(",")}
    ports = []
    declaration = re.compile(
        r"^\s*(input|output|inout)\s+(?:wire\s+|reg\s+)?(?:signed\s+)?"
        r"(?:\[(\d+):(\d+)\]\s*)?\\?(\S+?)\s*;",
        re.M,
    )
    for direction, high, low, name in declaration.findall(match[2]):
        if name in names:
            ports.append(Port(name, direction, int(high) - int(low) + 1 if high else 1))
    return tuple(ports)


def _verilog_of(module: ModuleType, preset_name: str) -> tuple[str, str]:
    from amaranth.back import verilog

    top, design = module.dut(preset_name)
    if isinstance(design, str):
        return top, design
    return top, verilog.convert(design, name=top, emit_src=False, strip_internal_attrs=True)


def _recipe(name: str, top: str, verilog: str, waves: bool) -> Recipe:
    import cocotb_tools.config as cocotb

    public = [
        f'public_flat_rw -module "{top}" -var "{p.name}"' for p in verilog_ports(verilog, top)
    ]
    libraries = cocotb.libs_dir
    return Recipe(
        name=f"bench {name}",
        top=top,
        verilog=verilog,
        sources=(cocotb.share_dir / "lib" / "verilator" / "verilator.cpp",),
        product="simulation",
        control="\n".join(["`verilator_config", *public, ""]),
        arguments=("--vpi", "--timescale", TIMESCALE, *(("--trace-vcd",) if waves else ())),
        linker_flags=f"-Wl,-rpath,{libraries} -L{libraries} -lcocotbvpi_verilator",
        optimization="-O1",
    )


def _simulate(
    module: ModuleType,
    program: Path,
    top: str,
    preset_name: str,
    seed: int,
    waves: bool,
    tests: list[str],
    folder: Path,
) -> Path:
    """Run the simulation in `folder`; the path of its result file, which may not exist."""
    from cocotb_tools.runner import Verilator

    class PrebuiltRunner(Verilator):
        """cocotb's runner for a simulation that `build` has made."""

        def _test_command(self) -> list[list[str]]:
            return [[str(program), *(("--trace",) if waves else ())]]

    names = "|".join(rf"{re.escape(test)}(/.*)?" for test in tests)
    python_path = os.pathsep.join([str(Path(module.__file__ or "").parent), *sys.path])
    runner = PrebuiltRunner()
    report = folder / "results.xml"
    try:
        runner.test(
            test_module=module.__name__,
            hdl_toplevel=top,
            hdl_toplevel_lang="verilog",
            build_dir=program.parent,
            test_dir=folder,
            results_xml=str(report),
            seed=seed,
            test_filter=rf"\.({names})$",
            extra_env={
                "BITLOOP_SEED": str(seed),
                "BITLOOP_PRESET": preset_name,
                "PYTHONPATH": python_path,
                "PYTEST_CURRENT_TEST": "",
                "COCOTB_ANSI_OUTPUT": "0",
            },
            waves=waves,
            log_file=folder / "log.txt",
        )
    except (RuntimeError, SystemExit):
        pass  # the results say which test failed, and a missing result counts as a failure
    return report


def _read_results(
    report: Path, name: str, preset_name: str, seed: int, folder: Path, waves: bool
) -> list[TestResult]:
    if not report.is_file():
        tail = "".join(_log_tail(folder))
        raise DeviceError(f"the simulation ended without results; its last lines:\n{tail}")
    results = []
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        bad = case.find("failure") if case.find("failure") is not None else case.find("error")
        if case.find("skipped") is not None:
            continue
        message = ""
        if bad is not None:
            message = bad.get("error_msg") or bad.get("message") or (bad.text or "").strip()
            message = message or "failed"
        results.append(
            TestResult(
                bench=name,
                name=case.get("name", "?"),
                preset=preset_name,
                seed=seed,
                passed=bad is None,
                seconds=float(case.get("time", "0")),
                message=message,
                log=None if bad is None else _log(folder),
                waves=folder / "dump.vcd" if waves else None,
            )
        )
    return results


def _log(folder: Path) -> Path | None:
    log = folder / "log.txt"
    return log if log.is_file() else None


def _log_tail(folder: Path) -> list[str]:
    log = _log(folder)
    return log.read_text(errors="replace").splitlines(keepends=True)[-15:] if log else []


def _same_test(defined: str, ran: str) -> bool:
    """`ran` is `defined` or one of its parametrizations."""
    return ran == defined or ran.startswith(f"{defined}/")
