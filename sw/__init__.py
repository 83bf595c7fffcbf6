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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch.export import ExportedProgram

    from .binary import Binary
    from .devices.interface import MemoryModel
    from .report import LatencyReport
    from .search.result import SearchResult
    from .session import Session

    Model = torch.nn.Module | ExportedProgram | str | PathLike

__all__ = ["compile", "load", "measure", "quantize", "search"]


def quantize(
    model: Model, x: NDArray, weights: int | Mapping[str, int] = 8, **options: Any
) -> ExportedProgram:
    """Post-training quantization of a float model, calibrated on inputs `x` (images, ...), NCHW.

    `model`: a module, an exported program or the path of one (.pt2). `weights`: 8, 4 or 2 bits for
    all layers, or by layer name. `options`: `method` of the activations, `weight_method`,
    `per_tensor`, `repairs`; see `bitloop.quantize.post_training`. Raises `FrontendError` or
    `DataError`.

    >>> import numpy as np, torch, bitloop
    >>> network = torch.nn.Sequential(
    ...     torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 10)
    ... )
    >>> x = np.random.default_rng(0).random((64, 1, 8, 8), dtype=np.float32)
    >>> program = bitloop.quantize(network, x, weights={"0": 8, "3": 4})
    >>> error = program.module()(torch.from_numpy(x)) - network(torch.from_numpy(x))
    >>> tuple(error.shape), bool(error.abs().max() < 0.1)
    ((64, 10), True)
    """
    from .dataset import check_dataset
    from .quantize import quantize as quantize_program

    data = check_dataset(x, None, "quantize")
    return quantize_program(_float_program(model, data.x), data.x, weights, **options)


def compile(
    quantized: ExportedProgram | str | PathLike, preset: str = "n8", **settings: int
) -> Binary:
    """Compiles a quantized program, or a model file (.pt2, .tflite, .onnx), for a preset;
    `settings` change fields of it.

    Raises `FrontendError`, `CompileError` (what does not fit, and by how much) or `ConfigError`.

    >>> import numpy as np, torch, bitloop
    >>> network = torch.nn.Sequential(
    ...     torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 10)
    ... )
    >>> x = np.random.default_rng(0).random((64, 1, 8, 8), dtype=np.float32)
    >>> binary = bitloop.compile(bitloop.quantize(network, x), preset="n4")
    >>> [(layer.op, layer.weight_bits, layer.macs) for layer in binary.layers]
    [('conv', 8, 2592), ('linear', 8, 2880)]
    >>> bitloop.load(binary).run(x).shape
    (64, 10)
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
    predicts the same ones without the RTL.

    >>> import numpy as np, torch, bitloop
    >>> network = torch.nn.Sequential(
    ...     torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 10)
    ... )
    >>> x = np.random.default_rng(0).random((64, 1, 8, 8), dtype=np.float32)
    >>> binary = bitloop.compile(bitloop.quantize(network, x), preset="n4")
    >>> report = bitloop.measure(binary, device="model")
    >>> report.head + sum(layer.cycles for layer in report.layers) + report.tail == report.cycles
    True
    """
    return load(binary, device, memory).measure()


def search(
    model: Model,
    x: NDArray,
    y: NDArray | None = None,
    *,
    budget_cycles: int | None = None,
    budget_ratio: float | None = None,
    budget_ms: float | None = None,
    budget_weight_bytes: int | None = None,
    clock_mhz: float | None = None,
    preset: str = "n8",
    device: str = "verilator",
    memory: MemoryModel | None = None,
    evaluation: tuple[NDArray, NDArray | None] | None = None,
    sensitivity: str = "kl",
    pareto: int = 0,
    rivals: bool = False,
    workers: int = 1,
    scheduler: str | None = None,
    store: bool = True,
    seed: int = 0,
    progress: Callable[[str], None] = lambda message: None,
    **settings: int,
) -> SearchResult:
    """Weight widths of least accuracy loss under a budget of cycles measured on `device`.

    One budget of time, in cycles, as a ratio of the uniform 8-bit network's, or in milliseconds at
    `clock_mhz`; a budget of weight bytes beside it or alone. Half of the data, drawn by `seed`,
    calibrates and ranks, the other half scores, unless `evaluation` (x, y) is given. `pareto`:
    points of a front to find too (`result.front`). `workers` and `scheduler`: processes, or a
    cluster's address, for longer work; the result is the same. `store`: reuse and keep
    measurements. Raises `SearchError` when the budget is out of reach.

    >>> import numpy as np, torch, bitloop
    >>> network = torch.nn.Sequential(
    ...     torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 10)
    ... )
    >>> x = np.random.default_rng(0).random((64, 1, 8, 8), dtype=np.float32)
    >>> result = bitloop.search(network, x, budget_ratio=0.8, preset="n4", device="model")
    >>> result.cycles <= 0.8 * result.cycles_uniform8
    True
    >>> binary = bitloop.compile(result.program, preset="n4")
    >>> bitloop.measure(binary, device="model").cycles == result.cycles
    True
    """
    from bitloop.hw.config import preset as find_preset

    from .dataset import check_dataset
    from .devices.interface import MemoryModel
    from .search.budget import Budget
    from .search.loop import Settings
    from .search.loop import search as search_widths
    from .search.tasks import DeviceRecipe
    from .search.work import Processes
    from .session import is_board, open_device, open_store, stored

    config = find_preset(preset).replace(**settings)
    data = check_dataset(x, y, "search")
    opened = open_device(device, config, memory)
    kept = open_store() if store else None
    with Processes(workers, scheduler) as work:
        return search_widths(
            _float_program(model, data.x),
            data,
            config=config,
            device=opened if kept is None else stored(opened, kept),
            budget=Budget(budget_cycles, budget_ratio, budget_ms, budget_weight_bytes),
            evaluation=check_dataset(*evaluation, "evaluation") if evaluation else None,
            settings=Settings(method=sensitivity, pareto=pareto, rivals=rivals, seed=seed),
            megahertz=clock_mhz,
            work=work,
            recipe=(
                None
                if is_board(device)  # there is one of it
                else DeviceRecipe(device, config, memory or MemoryModel())
            ),
            memo=kept,
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
