# SPDX-License-Identifier: Apache-2.0
"""Every rule of the integer graph, broken once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bitloop.errors import GraphError
from bitloop.graph.ir import Add, AvgPool, Conv, Graph, MaxPool, Requantization, TensorSpec
from bitloop.graph.validate import validate


def requant(channels: int, **changes: Any) -> Requantization:
    one = np.ones(channels, np.int64)
    return dataclasses.replace(Requantization(one * 40000, one * 77, one * 20), **changes)


def graph() -> Graph:
    """x -conv-> a -max-> b, x -average-> c, b + c -> y."""
    shapes = {"x": (6, 6, 4), "a": (6, 6, 4), "b": (3, 3, 4), "c": (3, 3, 4), "y": (3, 3, 4)}
    weights = np.arange(-72, 72).reshape(4, 3, 3, 4).astype(np.int8)
    return Graph(
        "net",
        {name: TensorSpec(name, shape, 0.1, 7) for name, shape in shapes.items()},
        (
            Conv("conv", ("x",), "a", weights=weights, bits=8, requant=requant(4),
                 padding=(1, 1, 1, 1)),
            MaxPool("max", ("a",), "b", kernel=(2, 2), stride=(2, 2)),
            AvgPool("avg", ("x",), "c", kernel=(2, 2), stride=(2, 2), requant=requant(4)),
            Add("add", ("b", "c"), "y", multiplier_a=9, multiplier_b=8, constant=-5, shift=3),
        ),
        ("x",),
        ("y",),
    )  # fmt: skip


def tensor(name: str, /, **changes: Any) -> Callable[[Graph], Graph]:
    def change(g: Graph) -> Graph:
        tensors = {**g.tensors, name: dataclasses.replace(g.tensors[name], **changes)}
        return dataclasses.replace(g, tensors=tensors)

    return change


def node(name: str, /, **changes: Any) -> Callable[[Graph], Graph]:
    def change(g: Graph) -> Graph:
        nodes = (dataclasses.replace(n, **changes) if n.name == name else n for n in g.nodes)
        return dataclasses.replace(g, nodes=tuple(nodes))

    return change


def whole(**changes: Any) -> Callable[[Graph], Graph]:
    return lambda g: dataclasses.replace(g, **changes)


ONE = np.ones(4, np.int64)


def weights(shape: tuple[int, ...], value: int = 1) -> np.ndarray:
    return np.full(shape, value, np.int8)


BROKEN: list[tuple[Callable[[Graph], Graph], str]] = [
    (whole(multiplier_bits=8), "net: multiplier_bits must be one of"),
    (whole(inputs=()), "net: a graph must have inputs and outputs"),
    (whole(inputs=("x", "x")), "net: inputs must differ"),
    (whole(outputs=("q",)), "net: output 'q' is no tensor"),
    (whole(outputs=("y", "x")), "x: a graph input cannot be an output"),
    (lambda g: dataclasses.replace(g, nodes=g.nodes[:-1]), "y: tensor has no producer"),
    (lambda g: dataclasses.replace(g, nodes=g.nodes[::-1]), "add: input 'b' is not produced"),
    (whole(outputs=("b",)), "y: tensor is neither consumed nor an output"),
    (tensor("x", name="z"), "x: tensor key and name"),
    (tensor("x", shape=(6, 6)), "x: shape must be"),
    (tensor("x", shape=(6, 0, 4)), "x: shape must be"),
    (tensor("x", scale=0.0), "x: scale must be positive"),
    (tensor("x", scale=float("nan")), "x: scale must be positive"),
    (tensor("x", zero_point=256), "x: zero-point must be in 0..255, not 256"),
    (tensor("x", source_dtype="int16"), "x: source dtype"),
    (tensor("x", source_layout="HWC"), "x: source layout"),
    (tensor("x", source_shape=(4, 6)), "x: source shape"),
    (node("max", name="conv"), "conv: node names must be distinct"),
    (node("max", output="a"), "max: output 'a' has another producer"),
    (node("max", output="q"), "max: output 'q' is no tensor"),
    (node("add", inputs=("b",)), "add: must have 2 inputs, not 1"),
    (node("conv", bits=3), r"conv: weight bits must be one of \(2, 4, 8\), not 3"),
    (node("conv", bits=4), "conv: weights -72..71 do not fit 4 bits"),
    (node("conv", weights=weights((4, 3, 3))), "conv: weights must be int8 of four"),
    (node("conv", weights=weights((4, 3, 3, 3))), "conv: weights for 3 input channels"),
    (node("conv", weights=weights((5, 3, 3, 4))), "conv: 5 output channels, the tensor has 4"),
    (node("conv", groups=3), r"conv: groups \(3\) must divide"),
    (node("conv", stride=(0, 1)), "conv: kernel, stride and dilation"),
    (node("conv", stride=(2, 1)), "conv: makes 3 rows of 6, the output tensor has 6"),
    (node("conv", padding=(3, 1, 1, 1)), "conv: padding .* less than the kernel's extent of 3"),
    (node("conv", padding=(1, -1, 1, 1)), "conv: padding"),
    (node("conv", operator="dense"), "conv: operator must be"),
    (node("conv", requant=requant(3)), r"conv: multiplier must be int64 of shape \(4,\)"),
    (node("conv", requant=requant(4, low=9, high=8)), "conv: clamp limits"),
    (node("conv", requant=requant(4, multiplier=ONE << 16)), "conv: multiplier must be in"),
    (node("conv", requant=requant(4, constant=ONE << 47)), "conv: constant must be in"),
    (node("conv", requant=requant(4, shift=ONE * 39)), "conv: shift must be in 0..38, not 39"),
    (node("conv", requant=requant(4, shift=ONE * 0, half_even=True)), "conv: shift must be in 1"),
    (tensor("b", scale=0.2), "max: must not change scale"),
    (node("max", high=300), "max: clamp limits"),
    (tensor("b", shape=(3, 3, 5)), "max: must keep 4 channels, the output has 5"),
    (node("avg", kernel=(4000, 4000), stride=(1, 1)), "avg: makes"),
    (node("add", multiplier_a=1 << 22), "add: multiplier_a must be in"),
    (node("add", multiplier_b=-1), "add: multiplier_b must be in"),
    (node("add", constant=1 << 35), "add: constant must fit 36 bits"),
    (node("add", shift=32), "add: shift must be in 0..31"),
    (node("add", inputs=("b", "x")), "add: addition needs equal shapes"),
]


def test_a_graph_that_keeps_all_rules() -> None:
    validate(graph())


@pytest.mark.parametrize(("change", "message"), BROKEN, ids=[m for _, m in BROKEN])
def test_broken_rule(change: Callable[[Graph], Graph], message: str) -> None:
    with pytest.raises(GraphError, match=f"^{message}"):
        validate(change(graph()))


def test_accumulator_bound() -> None:
    shapes = {"x": (1, 1, 70000), "y": (1, 1, 1)}
    conv = Conv("big", ("x",), "y", weights=weights((1, 1, 1, 70000), 127), bits=8,
                requant=requant(1))  # fmt: skip
    tensors = {name: TensorSpec(name, shape, 0.1, 0) for name, shape in shapes.items()}
    with pytest.raises(GraphError, match=r"big: accumulator may reach \d+, must stay below 2\^31"):
        validate(Graph("net", tensors, (conv,), ("x",), ("y",)))
