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


def test_fields_of_folds_count_only_when_folded() -> None:
    fields = {"fold_extra": 7, "fill": 3, "fold_skip": 1, "fold_phase": 1, "channels": 3}
    names = ("extra", "fill", "skip", "phase", "pairs")
    plain, folded = (evaluate(8, fold=fold, **fields)[0] for fold in (0, 1))
    assert [plain[name] for name in names] == [0, 0, 0, 0, 0]
    assert [folded[name] for name in names] == [7, 3, 1, 1, 1]


@pytest.mark.parametrize("fields", [{"channels": 2}, {"fold_skip": 2}, {"segments": 2}])
def test_groups_taken_in_pairs(fields: dict[str, int]) -> None:
    pairs = {"channels": 3, "fold": 1, "fold_skip": 1}
    assert evaluate(8, **pairs)[0]["pairs"] == 1
    assert evaluate(8, **pairs | fields)[0]["pairs"] == 0


@pytest.mark.parametrize("skip", range(4))
@pytest.mark.parametrize("phase", range(4))
def test_the_first_word_comes_no_later_than_the_next_would(skip: int, phase: int) -> None:
    fields = {"fold_skip": skip, "fold_phase": phase}
    assert evaluate(8, fold=1, **fields)[1] == (phase > skip)
    assert not evaluate(8, fold=0, **fields)[1]


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
