# SPDX-License-Identifier: Apache-2.0
"""Bitloop: a network's bit-widths and its accelerator, designed together.

The five verbs, each importing what it needs when it is called::

    quantized = bitloop.quantize(model, x)               # torch.export program, PT2E
    binary = bitloop.compile(quantized, preset="n8")     # accelerator binary
    logits = bitloop.load(binary).run(x)                 # floats in, floats out
    report = bitloop.measure(binary)                     # cycles, from the RTL
    result = bitloop.search(model, x, y, budget_ratio=0.5)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch.export import ExportedProgram

    from .binary import Binary
    from .devices.interface import MemoryModel
    from .report import LatencyReport
    from .search.loop import SearchResult
    from .session import Session

    Model = torch.nn.Module | ExportedProgram | str | PathLike

__all__ = ["compile", "load", "measure", "quantize", "search"]


def quantize(model: Model, x: NDArray, weights: int | Mapping[str, int] = 8) -> ExportedProgram:
    """Post-training quantization of a float model, calibrated on inputs `x` (images, ...), NCHW.

    `model`: a module, an exported program or the path of one (.pt2). `weights`: 8, 4 or 2 bits for
    all layers, or by layer name. Raises `FrontendError` or `DataError`.
    """
    from .dataset import check_dataset
    from .quantize import quantize as quantize_program

    data = check_dataset(x, None, "quantize")
    return quantize_program(_float_program(model, data.x), data.x, weights)


def compile(
    quantized: ExportedProgram | str | PathLike, preset: str = "n8", **settings: int
) -> Binary:
    """Compiles a quantized program, or a model file (.pt2, .tflite, .onnx), for a preset;
    `settings` change fields of it.

    Raises `FrontendError`, `CompileError` (what does not fit, and by how much) or `ConfigError`.
    """
    from bitloop.hw.config import preset as find_preset

    from .compile import compile_graph

    config = find_preset(preset).replace(**settings)
    if isinstance(quantized, str | PathLike):
        from .frontend.detect import import_file

        graph, _ = import_file(Path(quantized), config.multiplier_bits)
    else:
        from .frontend.torch_export import import_program

        graph = import_program(quantized, "network", config.multiplier_bits)
    return compile_graph(graph, config)


def load(
    binary: Binary | str | PathLike,
    device: str = "reference",
    memory: MemoryModel | None = None,
) -> Session:
    """Loads a binary (or its file) on a device, `reference`, `model` or `verilator`.

    Raises `BinaryError` for a damaged file, `DeviceError` where the device cannot be built.
    """
    from .binary import Binary
    from .session import Session, open_device

    loaded = binary if isinstance(binary, Binary) else Binary.load(Path(binary))
    return Session(loaded, open_device(device, loaded.config, memory))


def measure(
    binary: Binary | str | PathLike,
    device: str = "verilator",
    memory: MemoryModel | None = None,
) -> LatencyReport:
    """Cycles of one inference, by layer and by cause, from the core's own counters; device `model`
    predicts the same ones without the RTL."""
    return load(binary, device, memory).measure()


def search(
    model: Model,
    x: NDArray,
    y: NDArray | None = None,
    *,
    budget_cycles: int | None = None,
    budget_ratio: float | None = None,
    preset: str = "n8",
    device: str = "verilator",
    memory: MemoryModel | None = None,
    evaluation: tuple[NDArray, NDArray | None] | None = None,
    seed: int = 0,
    progress: Callable[[str], None] = lambda message: None,
    **settings: int,
) -> SearchResult:
    """Weight widths of least accuracy loss under a budget of cycles measured on `device`.

    Exactly one budget: cycles, or a ratio of the uniform 8-bit network's. Half of the data, drawn
    by `seed`, calibrates and ranks, the other half scores, unless `evaluation` (x, y) is given.
    Raises `SearchError` when the budget is out of reach.
    """
    from bitloop.hw.config import preset as find_preset

    from .dataset import check_dataset
    from .search.loop import search as search_widths
    from .session import open_device

    config = find_preset(preset).replace(**settings)
    data = check_dataset(x, y, "search")
    return search_widths(
        _float_program(model, data.x),
        data,
        config=config,
        device=open_device(device, config, memory),
        budget_cycles=budget_cycles,
        budget_ratio=budget_ratio,
        evaluation=check_dataset(*evaluation, "evaluation") if evaluation else None,
        seed=seed,
        progress=progress,
    )


def _float_program(model: Model, x: NDArray) -> ExportedProgram:
    """`model` as a program: loaded from its file, exported for inputs like `x`, or as it is."""
    import torch

    if not isinstance(model, torch.nn.Module):
        return _program(model)
    from .programs import export_module

    return export_module(model, x)


def _program(model: ExportedProgram | str | PathLike) -> ExportedProgram:
    if not isinstance(model, str | PathLike):
        return model
    from .frontend.torch_export import load_program

    return load_program(Path(model))


class _Package(ModuleType):
    """Importing a sub-package sets it as an attribute of its parent, which would replace the verb
    of the same name by a module that cannot be called; sub-packages stay importable regardless."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
