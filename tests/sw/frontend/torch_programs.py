# SPDX-License-Identifier: Apache-2.0
"""A quantized PyTorch program and its integer graph, compared tensor by tensor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import Interpreter, Node

from bitloop.frontend.torch_export import _Importer
from bitloop.frontend.torch_values import Codes
from bitloop.graph.execute import run_node
from bitloop.graph.ir import Graph
from bitloop.quantize import quantize


def export(module: nn.Module, shape: tuple[int, ...], batch: int | None = None) -> ExportedProgram:
    """`module` in evaluation mode, batch-norms as if trained; the batch is dynamic by default."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -0.5, 0.5)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.3)
    example = (torch.randn(batch or 2, *shape),)
    dynamic = ({0: torch.export.Dim.AUTO},) if batch is None else None
    return torch.export.export(module.eval(), example, dynamic_shapes=dynamic)


@dataclass(frozen=True)
class Comparison:
    graph: Graph
    outputs: int
    """Codes compared, each tensor computed from PyTorch's codes of those before it."""
    wrong: int
    largest: int
    where: dict[str, int]


class _Run(Interpreter):
    """Keeps what the program's quantize operators return; with `precise` everything is computed in
    double precision, so that PyTorch's own rounding does not show."""

    def __init__(self, program: ExportedProgram, precise: bool) -> None:
        super().__init__(program.module(check_guards=False))
        self.precise = precise
        self.codes: list[np.ndarray] = []

    def run_node(self, n: Node) -> object:
        if n.op == "call_module":
            return None
        operator = str(n.target)
        quantizes = "quantize_per_tensor" in operator and "dequantize" not in operator
        if self.precise and n.op == "call_function" and "quantize_per" in operator:
            value = _precise(operator, *self.fetch_args_kwargs_from_env(n)[0])
        else:
            value = super().run_node(n)
        if self.precise and isinstance(value, torch.Tensor) and value.dtype == torch.float32:
            value = value.double()
        if quantizes:
            self.codes.append(value.numpy().astype(np.int64) + 128 * (value.dtype == torch.int8))
        return value


def _precise(operator: str, x: torch.Tensor, scale: object, zero: object, *rest: object) -> object:
    """A quantize or dequantize operator in double precision."""
    if "per_channel" in operator:
        axis, *rest = rest
        shape = [-1 if i == axis else 1 for i in range(x.ndim)]
        scale = scale.reshape(shape)
        zero = 0 if zero is None else zero.reshape(shape)
    if "dequantize" in operator:
        return (x.double() - zero) * scale
    low, high, dtype = rest
    return (torch.round(x.double() / scale) + zero).clamp(low, high).to(dtype)


def compare(
    program: ExportedProgram, bits: int, x: np.ndarray, precise: bool = False
) -> Comparison:
    """Every tensor that the program quantizes, against PyTorch in floating point: in single
    precision, as it runs, or with `precise` in double."""
    importer = _Importer(program, "net", bits)
    graph = importer.run()
    run = _Run(program, precise)
    with torch.no_grad():
        run.run(torch.from_numpy(x))
    quantized = [
        node for node in program.graph.nodes
        if "quantize_per_tensor" in str(node.target) and "dequantize" not in str(node.target)
        and isinstance(importer.values[node], Codes)
    ]  # fmt: skip
    assert len(run.codes) == len(quantized)
    known: dict[str, np.ndarray] = {}
    for node, codes in zip(quantized, run.codes, strict=True):
        name, places = importer.values[node].tensor, importer.places(node)
        if name in graph.tensors and places.permuted:
            flat = np.zeros((len(codes), codes[0].size), np.uint8)
            flat[:, places.indices.reshape(-1)] = codes.reshape(len(codes), -1)
            known.setdefault(name, flat.reshape(-1, *graph.tensors[name].shape))
    assert set(graph.outputs) <= set(known), "outputs are quantized"
    values = {name: known[name] for name in graph.inputs}
    outputs = wrong = largest = 0
    where: dict[str, int] = {}
    for graph_node in graph.nodes:
        found = run_node(graph, graph_node, [values[name] for name in graph_node.inputs])
        name = graph_node.output
        if name in known:
            difference = np.abs(found.astype(int) - known[name])
            outputs += difference.size
            wrong += int((difference > 0).sum())
            largest = max(largest, int(difference.max()))
            if difference.any():
                where[name] = int((difference > 0).sum())
            found = known[name]
        values[name] = found
    return Comparison(graph, outputs, wrong, largest, where)


TOTALS = {16: (0, 0), 31: (0, 0)}
"""By multiplier width: codes that differ and codes compared, of all checks so far."""


def check_totals() -> None:
    if not TOTALS[31][1]:
        pytest.skip("nothing was compared before this")
    for bits, share in ((16, 1e-3), (31, 1e-5)):
        wrong, outputs = TOTALS[bits]
        assert wrong <= max(share * outputs, 2), (bits, wrong, outputs)


def check(
    module: nn.Module, shape: tuple[int, ...], *, images: int = 24, weights: int = 8, seed: int = 0
) -> Graph:
    """Quantize, import and compare at both multiplier widths; the graph of the wider."""
    program = export(module, shape)
    x = np.random.default_rng(seed).normal(size=(images, *shape)).astype(np.float32)
    return check_quantized(quantize(program, x, weights), x)


def check_quantized(program: ExportedProgram, x: np.ndarray) -> Graph:
    for bits, share in ((16, 1e-3), (31, 1e-5)):
        found = compare(program, bits, x)
        assert found.largest <= 1, found.where
        # Few of the outputs compared here: 2 may lie on a tie; `check_totals` has the share of all.
        assert found.wrong <= max(2, share * found.outputs), (bits, found.outputs, found.where)
        TOTALS[bits] = TOTALS[bits][0] + found.wrong, TOTALS[bits][1] + found.outputs
        assert found.outputs > 1000
    for name in found.graph.outputs:
        assert found.graph.tensors[name].source_shape
    return found.graph
