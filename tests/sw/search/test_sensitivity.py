# SPDX-License-Identifier: Apache-2.0
"""Sensitivities on small networks: definitions, closed forms, and what every method promises."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from sensitivity_networks import CLASSES, context_of, network
from torch import nn

from bitloop.errors import SearchError
from bitloop.programs import run_program
from bitloop.quantize import layer_names
from bitloop.quantize.weights import channel_scales, code_limits
from bitloop.search.sensitivity import (
    METHODS,
    Context,
    Sensitivity,
    divergence,
    mix,
    monotone,
    outputs,
)
from bitloop.search.sensitivity import evaluation as evaluation_module
from bitloop.search.sensitivity.evaluation import variant_outputs
from bitloop.search.sensitivity.layer import entropy, squared_weight_errors


def near(losses, **tolerance):
    """`losses` by layer and width, each approximately."""
    return {layer: pytest.approx(row, **tolerance) for layer, row in losses.items()}


# What every method promises.


@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_losses_that_never_fall_with_the_width(context, name):
    losses = METHODS[name](context)
    assert tuple(losses) == layer_names(context.program)
    for row in losses.values():
        assert list(row) == [8, 4, 2] and row[8] == 0
        assert row[8] <= row[4] <= row[2] and math.isfinite(row[2])
    assert sum(row[2] for row in losses.values()) > 0


@pytest.mark.parametrize("name", METHODS)
def test_every_method_repeats_itself(context, name):
    again = Context.of(context.program, context.graphs, context.x, context.labels, seed=0)
    assert METHODS[name](again) == METHODS[name](context)


@pytest.mark.parametrize("name", METHODS)
def test_labels_are_asked_for_by_those_alone_that_need_them(context, name):
    unlabelled = Context.of(context.program, context.graphs, context.x)
    if METHODS[name].needs_labels:
        with pytest.raises(SearchError, match=f"{name}.*labels"):
            METHODS[name](unlabelled)
    else:
        assert METHODS[name](unlabelled)


@pytest.mark.parametrize("name", ["alps", "hessian", "limpq"])
@pytest.mark.parametrize("wrong", [-1, CLASSES])
def test_labels_that_are_no_classes_are_refused(context, wrong, name):
    labels = np.full(len(context.x), 2)
    labels[3] = wrong
    bad = Context.of(context.program, context.graphs, context.x, labels)
    with pytest.raises(SearchError, match=f"label {wrong}.*0 to {CLASSES - 1}"):
        METHODS[name](bad)


@given(st.dictionaries(st.sampled_from([2, 3, 4, 6, 8]), st.floats(-5, 100), min_size=1))
def test_narrower_never_loses_less(losses):
    result = monotone(losses)
    ordered = [result[width] for width in sorted(result, reverse=True)]
    assert ordered == sorted(ordered)
    assert all(result[width] >= losses[width] for width in losses)
    assert set(result.values()) <= {0.0, *losses.values()}


def test_noise_below_the_widest_counts_as_nothing(context):
    noisy = Sensitivity("noisy", "", lambda c: {n: {4: -1.0, 2: 3.0} for n in c.layers})
    assert noisy(context)["stem"] == {8: 0.0, 4: 0.0, 2: 3.0}


# Divergence.


def test_divergence_of_vectors_is_kullback_leibler():
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.5, 0.25, 0.25])
    expected = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    logits = np.log(p)[None].astype(np.float32), np.log(q)[None].astype(np.float32) + 3
    assert divergence(*logits) == pytest.approx(expected, rel=1e-5)


def test_divergence_of_maps_is_relative_squared_error():
    reference = np.full((2, 3, 4, 4), 2.0, np.float32)
    assert divergence(reference, reference * 1.5) == pytest.approx(0.25)
    assert divergence(reference * 0, reference * 0) == 0


@given(st.integers(0, 2**31))
def test_divergence_is_zero_only_for_equal_distributions(seed):
    logits = np.random.default_rng(seed).normal(0, 3, (5, 10)).astype(np.float32)
    assert divergence(logits, logits) == 0
    assert divergence(logits, logits[:, ::-1]) > 0


@pytest.mark.parametrize("end", [nn.Softmax(1), nn.LogSoftmax(1), lambda x: x.argmax(1)])
def test_networks_are_compared_before_what_the_host_computes(context, end):
    """The same network with a softmax or argmax at its end has the same sensitivities."""
    ended = context_of(network(end), context.x)
    assert ended.graphs[8].host
    assert np.array_equal(ended.reference, run_program(context.program, context.x))
    assert METHODS["kl"](ended) == METHODS["kl"](context)
    unlabelled = Context.of(context.program, context.graphs, context.x)
    assert METHODS["hessian"](ended) == near(METHODS["hessian"](unlabelled))


# Incremental evaluation.


@settings(deadline=None, max_examples=15)
@given(st.lists(st.lists(st.sampled_from([8, 4, 2]), min_size=4, max_size=4), max_size=3))
def test_running_again_what_changed_is_running_the_whole(context, policies):
    variants = [dict(zip(context.layers, widths, strict=True)) for widths in policies]
    variants += [{}, {"a": 2}, {"last": 4}]
    for part, index, found in variant_outputs(context.graphs, context.codes, variants):
        assert part == slice(0, len(context.x))
        whole = outputs(mix(context.graphs, variants[index]), context.codes)
        assert np.array_equal(found, whole)


def test_images_in_parts_give_the_same_outputs(context, monkeypatch):
    variants = context.single
    (whole,) = [[f for _, i, f in variant_outputs(context.graphs, context.codes, variants)]]
    monkeypatch.setattr(evaluation_module, "_KEPT_BYTES", 1 << 13)
    parts = {}
    for images_, index, found in variant_outputs(context.graphs, context.codes, variants):
        assert images_.stop - images_.start == len(found) < len(context.x)
        parts.setdefault(index, []).append(found)
    for index, expected in enumerate(whole):
        assert np.array_equal(np.concatenate(parts[index]), expected)


def test_outputs_are_kept_between_methods(context):
    fresh = Context.of(context.program, context.graphs, context.x)
    first = [(part, i, found.copy()) for part, i, found in fresh.single_outputs()]
    second = list(fresh.single_outputs())
    assert len(first) == len(second) == len(fresh.single)
    for (part, i, found), (part_again, i_again, kept) in zip(first, second, strict=True):
        assert (part, i) == (part_again, i_again) and np.array_equal(found, kept)


# Methods against their definitions.


def mean_over_images(context, loss):
    """By layer and width, of the whole network run once for each, less the widest's."""
    base = loss(outputs(context.graphs[8], context.codes))
    return {
        layer: monotone(
            {
                width: loss(outputs(mix(context.graphs, {layer: width}), context.codes)) - base
                for width in (8, 4, 2)
            }
        )
        for layer in context.layers
    }


def test_methods_at_the_output_are_means_of_their_losses(context):
    reference, rows = context.reference.astype(np.float64), np.arange(len(context.x))
    probabilities = softmax(reference, axis=1)

    def kl(y):
        return (probabilities * (np.log(probabilities) - log_softmax(y, axis=1))).sum(1).mean()

    def relative_error(y):
        return ((y - reference) ** 2).mean() / (reference**2).mean()

    def cross_entropy(y):
        return -log_softmax(y, axis=1)[rows, context.labels].mean()

    for name, loss in (("kl", kl), ("mse", relative_error), ("alps", cross_entropy)):
        expected = mean_over_images(context, loss)
        assert METHODS[name](context) == near(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("codes", "bits"),
    [
        (np.zeros(9, np.int8), 0),
        (np.arange(-8, 8, dtype=np.int8).repeat(3), 4),
        (np.array([-1, 1, 1, 1], np.int8), 2 - 0.75 * math.log2(3)),
    ],
)
def test_entropy_of_codes(codes, bits):
    assert entropy(codes) == pytest.approx(bits)


def test_weight_entropy_adds_up_the_steps_above(context):
    losses = METHODS["entropy"](context)
    for node_8, node_4 in zip(context.graphs[8].nodes, context.graphs[4].nodes, strict=True):
        if node_8.name in losses:
            wide, narrow = entropy(node_8.weights), entropy(node_4.weights)
            expected = {8: 0.0, 4: wide, 2: wide + narrow}
            assert losses[node_8.name] == pytest.approx(expected)


def test_weight_errors_are_those_of_the_real_weights(context):
    """The linear layer's weights, which have no batch-norm folded in."""
    weight = context.program.state_dict["last.weight"].detach()

    def quantized(bits):
        scale = channel_scales(weight, bits)[:, None]
        low, high = code_limits(bits)
        return ((weight / scale).round().clamp(low, high) * scale).double()

    errors = squared_weight_errors(context)["last"]
    for bits in (4, 2):
        expected = float(((quantized(bits) - quantized(8)) ** 2).sum())
        assert errors[bits] == pytest.approx(expected, rel=1e-3)


def test_layer_noise_is_seen_at_the_layer(context):
    """The last layer's output is the network's, so its noise is the network's squared error."""
    wide = outputs(context.graphs[8], context.codes).astype(np.float64)
    expected = {
        width: ((outputs(mix(context.graphs, {"last": width}), context.codes) - wide) ** 2).sum()
        / (wide**2).sum()
        for width in (8, 4, 2)
    }
    assert METHODS["sqnr"](context)["last"] == pytest.approx(expected, rel=1e-4)
