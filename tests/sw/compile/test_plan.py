# SPDX-License-Identifier: Apache-2.0
"""Steps a pixel takes: what the layer's arithmetic needs, banks permitting."""

from math import ceil

import numpy as np
import pytest

from bitloop.compile.fold import folds, trimmed
from bitloop.compile.layer import Kind, Layer
from bitloop.compile.layout import folded_layouts, layouts
from bitloop.compile.plan import plan
from bitloop.errors import CompileError
from bitloop.graph.ir import Requantization
from bitloop.hw.config import preset
from bitloop.hw.isa import Mode


def layer(kind, channels, kernel, bits=8, stride=(1, 1), dilation=(1, 1), padding=None, shared=0):
    outputs = 1 if shared else channels
    taps = kernel[0] * kernel[1] * (channels if kind is Kind.DENSE else 1)
    ones = np.ones(channels, np.int64)
    edge = [d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True)]
    return Layer(
        name="layer",
        op="conv",
        kind=kind,
        source="x",
        target="y",
        weights=np.ones((outputs, taps), np.int8),
        bits=bits,
        kernel=kernel,
        stride=stride,
        padding=(edge[0], edge[1]) * 2 if padding is None else padding,
        dilation=dilation,
        requant=Requantization(ones, ones, ones),
        output_parity=0,
        padding_code=0,
        macs=0,
    )


def fewest(item, shape, name):
    """Steps a row of the best layout."""
    config = preset(name)
    choices = layouts(shape, config.lanes)
    for fold in folds(item, shape, shape[1], config.lanes):
        choices += folded_layouts(shape, fold)
    plans = [plan(item, layout, shape[:2], config) for layout in choices]
    return min(plans, key=lambda p: p.cycles(*shape[:2]))


@pytest.mark.parametrize(("bits", "digits"), [(8, 1), (4, 2), (2, 4)])
@pytest.mark.parametrize("channels", [16, 32, 48, 64, 80])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (5, 5), (1, 3), (10, 4)])
def test_narrow_weights_divide_the_steps(bits, digits, channels, kernel):
    best = fewest(layer(Kind.DENSE, channels, kernel, bits), (20, 20, channels), "n16")
    words = kernel[0] * kernel[1] * channels // 16
    assert len(best.body) == ceil(words / digits)


@pytest.mark.parametrize(
    ("name", "channels", "kernel", "bits", "steps"),
    [
        ("n16", 3, (3, 3), 8, 2),  # 27 products on 16 lanes
        ("n16", 3, (3, 3), 4, 1),
        ("n16", 1, (3, 3), 8, 1),
        ("n16", 1, (10, 4), 8, 3),
        ("n8", 1, (3, 3), 8, 2),
        ("n8", 3, (3, 3), 4, 3),
        ("n4", 1, (3, 3), 8, 3),
    ],
)
def test_folding_fills_the_lanes_of_first_layers(name, channels, kernel, bits, steps):
    best = fewest(layer(Kind.DENSE, channels, kernel, bits), (32, 32, channels), name)
    assert len(best.body) == steps


@pytest.mark.parametrize(
    ("name", "bits", "stride", "steps", "padding"),
    [
        ("n16", 8, 2, 2, (1, 1, 1, 1)),
        ("n16", 8, 2, 2, (0, 0, 1, 1)),
        ("n16", 4, 2, 1, (0, 0, 1, 1)),
        ("n8", 4, 2, 3, (0, 0, 1, 1)),
    ],
)
def test_words_that_a_stride_skips_are_neither_stored_nor_missed(
    name, bits, stride, steps, padding
):
    config = preset(name)
    item = layer(Kind.DENSE, 3, (3, 3), bits, (stride, stride), padding=padding)
    shape, width = (96, 96, 3), (96 + padding[1] + padding[3] - 3) // stride + 1
    plans = {
        layout: plan(item, layout, (width, width), config)
        for fold in folds(item, shape, width, config.lanes)
        for layout in folded_layouts(shape, fold)
    }
    best = min(plans, key=lambda y: (len(plans[y].body), y.words))
    assert len(plans[best].body) == steps
    assert best.fold_skip == stride - 1 and plans[best].stride[1] == 1
    body = plans[best].body
    cut = trimmed(item, best, body, shape, width)
    farthest = max(word.dx for step in body for word in step.words if word is not None)
    following = cut.fold_phase + cut.width * stride  # where the first word that is missing ends
    assert cut.width <= width + 2 and cut.width <= width + farthest
    assert cut.width == width + farthest or following - cut.fold + 1 >= 96


@pytest.mark.parametrize(
    ("name", "stride", "mode", "body"),
    [
        ("n16", 1, Mode.WINDOW, 1),
        ("n16", 2, Mode.WINDOW, 2),
        ("n8", 1, Mode.WINDOW, 2),
        ("n8", 2, Mode.DEPTHWISE, 3),
        ("n4", 1, Mode.DEPTHWISE, 3),
    ],
)
def test_depthwise(name, stride, mode, body):
    item = layer(Kind.DEPTHWISE, 16, (3, 3), stride=(stride, stride))
    best = fewest(item, (32, 32, 16), name)
    assert not best.transposed
    assert (best.mode, len(best.body)) == (mode, body)


def test_windows_go_down_the_columns_of_narrow_images():
    item = layer(Kind.DEPTHWISE, 64, (3, 3))
    config = preset("n16")
    choices = layouts((25, 5, 64), 16, gaps=True)
    plans = [plan(item, layout, (25, 5), config, by_rows=False) for layout in choices]
    best = min(plan.cycles(25, 5) for plan in plans)
    assert best == 5 * (25 + 2)  # instead of 25 * (5 + 2)


def test_pooling_takes_four_words_a_step():
    average = fewest(
        layer(Kind.DEPTHWISE, 64, (8, 8), padding=(0,) * 4, shared=1), (8, 8, 64), "n16"
    )
    assert len(average.body) == 16 and average.source.shape[0] == 1
    assert all(step.hold for step in average.body)
    maximum = fewest(layer(Kind.MAXIMUM, 32, (2, 2), padding=(0,) * 4), (16, 16, 32), "n16")
    assert len(maximum.body) == 1


def test_distance_beyond_an_entry_is_refused_only_with_padding():
    config = preset("n4")
    far = layer(Kind.DENSE, 4, (3, 3), dilation=(40, 40))
    layout = layouts((100, 100, 4), 4)[0]
    with pytest.raises(CompileError, match="spans 80 rows"):
        plan(far, layout, (100, 100), config)
    inside = layer(Kind.DENSE, 4, (3, 3), dilation=(40, 40), padding=(0,) * 4)
    assert len(plan(inside, layout, (20, 20), config).body) == 9
