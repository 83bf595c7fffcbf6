# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import data
from amaranth.sim import Simulator

from bitloop.hw.config import preset
from bitloop.hw.geometry import decode_geometry, geometry_layout, illegal_geometry, times
from bitloop.hw.isa import FORMATS, Opcode

LEGAL = {"segments": 1, "segment_bytes": 1, "height": 1, "width": 1, "channels": 1}


def evaluate(lanes: int, **fields: int) -> tuple[dict[str, int], bool]:
    """Decoded geometry and whether it is illegal."""
    config = preset({4: "n4", 8: "n8", 16: "n16"}[lanes])
    line = Signal(FORMATS[Opcode.LOAD_ACTIVATIONS].layout())
    geometry, illegal = Signal(geometry_layout(config)), Signal()
    m = Module()
    m.d.comb += geometry.eq(decode_geometry(config, line, folds=True))
    m.d.comb += illegal.eq(illegal_geometry(config, line, folds=True))
    result: Any = None

    async def bench(ctx) -> None:
        nonlocal result
        ctx.set(line, LEGAL | fields)
        view = ctx.get(geometry)
        assert isinstance(view, data.Const)
        result = {name: getattr(view, name) for name, _ in view.shape()}, bool(ctx.get(illegal))

    simulator = Simulator(m)
    simulator.add_testbench(bench)
    simulator.run()
    return result


@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize("channels", [1, 3, 4, 5, 8, 15, 16, 17, 33, 16383])
def test_words_of_a_pixel(lanes: int, channels: int) -> None:
    geometry, illegal = evaluate(lanes, channels=channels)
    words = -(-channels // lanes)
    assert not illegal
    assert geometry["words"] == words - 1
    assert geometry["tail"] == channels - (words - 1) * lanes - 1
    assert geometry["first_top"] == geometry["first_bytes"] == min(channels, lanes) - 1


@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 16])
@pytest.mark.parametrize("fold", [1, 2, 3, 4, 8, 15])
def test_folded_words(lanes: int, channels: int, fold: int) -> None:
    geometry, illegal = evaluate(lanes, channels=channels, fold=fold, fold_extra=2, fill=9)
    assert illegal == (channels > 4 or fold * channels > lanes)
    if not illegal:
        assert geometry["first_top"] == fold * channels - 1
        assert geometry["first_bytes"] == channels - 1
        assert (geometry["extra"], geometry["fill"]) == (2, 9)


def test_fold_extra_counts_only_when_folded() -> None:
    assert evaluate(8, fold=0, fold_extra=7)[0]["extra"] == 0


@pytest.mark.parametrize("field", list(LEGAL))
def test_counts_of_zero_are_illegal(field: str) -> None:
    assert not evaluate(4)[1]
    assert evaluate(4, **{field: 0})[1]


@pytest.mark.parametrize("factor", [1, 2, 3, 20, 192, 256])
def test_times(factor: int) -> None:
    value, product = Signal(13), Signal(24)
    m = Module()
    m.d.comb += product.eq(times(value, factor))

    async def bench(ctx) -> None:
        for operand in (0, 1, 77, 8191):
            ctx.set(value, operand)
            assert ctx.get(product) == operand * factor

    simulator = Simulator(m)
    simulator.add_testbench(bench)
    simulator.run()
