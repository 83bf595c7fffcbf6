# SPDX-License-Identifier: Apache-2.0
"""What runs on the host: kept in the binary, applied by the session, the same on every device."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

from bitloop.binary import Binary
from bitloop.cli.common import parse_memory
from bitloop.compile import compile_graph
from bitloop.errors import BinaryError, DataError
from bitloop.frontend.torch_export import import_program
from bitloop.graph.ir import Graph, HostOperator
from bitloop.host import apply
from bitloop.hw.config import preset
from bitloop.inspect import render
from bitloop.quantize import quantize
from bitloop.session import Session, open_device


class Head(nn.Module):
    def __init__(self, operator: str) -> None:
        super().__init__()
        self.conv, self.operator = nn.Conv2d(2, 6, 3), operator

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        if self.operator == "argmax":
            return torch.softmax(y, 1).argmax(1)
        return getattr(torch, self.operator)(y, 1)


def quantized(operator: str) -> tuple[torch.export.ExportedProgram, Graph, np.ndarray]:
    torch.manual_seed(0)
    program = torch.export.export(
        Head(operator).eval(), (torch.zeros(2, 2, 6, 7),),
        dynamic_shapes=({0: torch.export.Dim.AUTO},),
    )  # fmt: skip
    x = np.random.default_rng(0).normal(size=(5, 2, 6, 7)).astype(np.float32) * 3
    result = quantize(program, x)
    return result, import_program(result, "net", 16), x


@pytest.mark.parametrize("operator", ["softmax", "log_softmax", "argmax"])
def test_session_equals_pytorch(operator: str) -> None:
    program, graph, x = quantized(operator)
    (host,) = graph.host
    assert (host.operator, host.axis) == (operator, 1)
    config = preset("n4")
    binary = Binary.from_bytes(compile_graph(graph, config).to_bytes())
    assert binary.host == graph.host and "on the host: " + operator in render(binary)
    session = Session(binary, open_device("reference", config, parse_memory(None)))
    found = session.run(x)
    with torch.no_grad():
        expected = program.module()(torch.from_numpy(x)).numpy()
    assert isinstance(found, np.ndarray) and found.shape == expected.shape
    assert found.dtype == expected.dtype
    if operator == "argmax":
        assert (found == expected).all() and np.unique(found).size > 2
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    raw = session.run_raw(x_codes(binary, x))
    assert raw.dtype == np.uint8 and raw.shape == (5, 6, 4, 5), "codes, before the host's part"
    with pytest.raises(DataError):
        session.run(x[:, :1])


def x_codes(binary: Binary, x: np.ndarray) -> np.ndarray:
    (spec,) = binary.input_specs
    return np.clip(np.rint(x / spec.scale) + spec.zero_point, 0, 255).astype(np.uint8)


def test_apply_is_stable_for_large_values() -> None:
    values = np.float32([[1000, 1001, -1000], [-5000, -5000, -5000]])
    for operator in ("softmax", "log_softmax"):
        found = apply([HostOperator("h", operator, "y", -1)], {"y": values})["y"]
        expected = getattr(torch, operator)(torch.from_numpy(values), -1).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert found.dtype == np.float32


@pytest.mark.parametrize(
    "change",
    [
        {"operator": "sqrt"},
        {"input": "nothing"},
        {"input": []},
        {"axis": 9},
        {"axis": 0},
        {"axis": "1"},
    ],
)
def test_damaged_host_operators_are_refused(change: dict[str, object]) -> None:
    _, graph, _ = quantized("softmax")
    binary = compile_graph(graph, preset("n4"))
    host = dataclasses.replace(binary.host[0], **change)  # type: ignore[arg-type]
    damaged = dataclasses.replace(binary, host=(host,))
    assert json.dumps(dataclasses.asdict(host))
    with pytest.raises(BinaryError):
        Binary.from_bytes(damaged.to_bytes())
