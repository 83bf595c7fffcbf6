# SPDX-License-Identifier: Apache-2.0
"""One network in a process of its own: compiled for a core, run on it, counted."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from bitloop.binary import STEP_BYTES, Binary
from bitloop.codes import flip_sign
from bitloop.compile import compile_graph
from bitloop.devices.interface import Device
from bitloop.devices.reference import ReferenceDevice
from bitloop.errors import CompileError
from bitloop.frontend.detect import import_file
from bitloop.graph.execute import execute
from bitloop.graph.ir import Graph
from bitloop.hw.config import preset
from bitloop.hw.isa import LINE_BYTES, Opcode
from bitloop.sim.cycle_model.device import ModelDevice
from bitloop.sim.device import VerilatorDevice

CYCLE_LIMIT = 20_000_000_000
TABLE_BYTES = 256


@dataclass(frozen=True)
class Row:
    """What the table says about a network on a core."""

    refusal: str = ""
    """Why the compiler does not take it; everything else is 0 then."""
    macs: int = 0
    cycles: int = 0
    read: int = 0
    written: int = 0
    """Bytes of external memory, one inference, the program itself included."""
    import_seconds: float = 0
    compile_seconds: float = 0
    compile_cpu_seconds: float = 0
    megabytes: int = 0
    """Largest resident size of the process until the binary was made."""
    device: str = ""
    """What computed the outputs that were compared: `RTL` or `interpreter`."""
    mismatches: int = 0
    """Of its outputs with the golden model's."""
    rtl_cycles: int | None = None
    seconds: float = 0
    """That the device took."""


def alone(function: Callable[..., Any], *args: Any) -> Any:
    """The function's result, from a process that does nothing else."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def peak_megabytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def measure(path: Path, core: str, most_rtl_cycles: int, most_interpreted: int) -> Row:
    """Of a model file on a preset: outputs from the RTL up to so many cycles, else from the
    instruction-level interpreter up to so many cycles, else none; cycles from the model."""
    config = preset(core)
    start = time.perf_counter()
    graph, _ = import_file(path, config.multiplier_bits)
    imported = time.perf_counter()
    cpu = time.process_time()
    try:
        binary = compile_graph(graph, config)
    except CompileError as error:
        return Row(refusal=str(error))
    compiled, cpu = time.perf_counter(), time.process_time() - cpu
    megabytes = peak_megabytes()
    read, written = traffic(binary)
    model = ModelDevice(config, cycle_limit=CYCLE_LIMIT)
    model.load(binary)
    profile = model.profile()
    model.close()
    macs = sum(layer.macs for layer in binary.layers)
    name, mismatches, rtl_cycles = "", 0, None
    started = time.perf_counter()
    if profile.cycles <= most_rtl_cycles:
        rtl = VerilatorDevice(config, cycle_limit=CYCLE_LIMIT)
        rtl.load(binary)
        started = time.perf_counter()  # the core is built by now
        name, (mismatches, rtl_cycles) = "RTL", different(rtl, graph)
        rtl.close()
    elif profile.cycles <= most_interpreted:
        interpreter = ReferenceDevice()
        interpreter.load(binary)
        name, (mismatches, _) = "interpreter", different(interpreter, graph)
    return Row(
        macs=macs,
        cycles=profile.cycles,
        read=read,
        written=written,
        import_seconds=imported - start,
        compile_seconds=compiled - imported,
        compile_cpu_seconds=cpu,
        megabytes=megabytes,
        device=name,
        mismatches=mismatches,
        rtl_cycles=rtl_cycles,
        seconds=time.perf_counter() - started,
    )


def traffic(binary: Binary) -> tuple[int, int]:
    """Bytes that one inference reads from external memory and writes to it."""
    config = binary.config
    parameters = config.columns * 4 * (config.parameter_words_per_group + 1)
    units = {
        Opcode.LOAD_WEIGHTS: config.weight_row_bytes,
        Opcode.LOAD_PARAMETERS: parameters,
        Opcode.LOAD_STEPS: STEP_BYTES,
    }
    read, written = binary.inference.lines * LINE_BYTES, 0
    for opcode, fields in binary.program(binary.inference):
        if opcode in units:
            read += fields["count"] * units[opcode]
        elif opcode is Opcode.LOAD_TABLE:
            read += TABLE_BYTES
        elif opcode is Opcode.LOAD_ACTIVATIONS:
            read += fields["segments"] * fields["segment_bytes"]
        elif opcode is Opcode.STORE_ACTIVATIONS:
            written += fields["segments"] * fields["segment_bytes"]
    return read, written


def different(device: Device, graph: Graph) -> tuple[int, int | None]:
    """Output codes that differ from the golden model's, and cycles, for random codes."""
    rng = np.random.default_rng(3)
    specs = {name: graph.tensors[name] for name in graph.inputs}
    inputs = {n: rng.integers(0, 256, (1, *s.shape), np.uint8) for n, s in specs.items()}
    outputs, profile = device.run({n: flip_sign(specs[n], x) for n, x in inputs.items()})
    wrong = 0
    for name, expected in execute(graph, inputs).items():
        wrong += int((flip_sign(graph.tensors[name], outputs[name]) != expected).sum())
    return wrong, profile.cycles if profile else None
