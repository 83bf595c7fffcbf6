# SPDX-License-Identifier: Apache-2.0
"""Sensitivities on small networks: definitions, closed forms, and what every method promises."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from torch import nn
from torch.nn import functional

from bitloop.errors import SearchError
from bitloop.frontend.torch_export import import_program
from bitloop.programs import export_module, run_program
from bitloop.quantize import calibrate, layer_names, quantize
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
from bitloop.search.sensitivity.compare import compare, random_policies, rank_correlation
from bitloop.search.sensitivity.evaluation import variant_outputs
from bitloop.search.sensitivity.hessian import FloatNetwork, hutchinson, loss_of
from bitloop.search.sensitivity.layer import entropy, squared_weight_errors

CLASSES = 5


class Residual(nn.Module):
    """Two paths that meet, batch-norm, pooling and, if wanted, a softmax or argmax at the end."""

    def __init__(self, end=None):
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1)
        self.a, self.norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.b = nn.Conv2d(8, 8, 1)
        self.last = nn.Linear(8, CLASSES)
        self.end = end

    def forward(self, x):
        x = functional.relu(self.stem(x))
        x = functional.relu(self.norm(self.a(x))) + self.b(x)
        x = self.last(x.mean((2, 3)))
        return self.end(x) if self.end else x


def network(end=None):
    torch.manual_seed(3)
    result = Residual(end)
    with torch.no_grad():
        result.norm.running_mean.normal_()
        result.norm.running_var.uniform_(0.5, 2)
        result.last.weight *= 6
    return result.eval()


def images(count=12, seed=0):
    return np.random.default_rng(seed).normal(0, 1, (count, 2, 6, 6)).astype(np.float32)


def context_of(module, x, labels=None, widths=(8, 4, 2), seed=0):
    program = export_module(module, x)
    ranges = calibrate(program, x)
    graphs = {w: import_program(quantize(program, x, w, ranges=ranges), "n") for w in widths}
    return Context.of(program, graphs, x, labels, seed=seed)


@pytest.fixture(scope="module")
def context():
    labels = np.random.default_rng(1).integers(0, CLASSES, 12)
    return context_of(network(), images(), labels)


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


# Hessian.


def tiny():
    """6 + 6 weights, smooth, with a residual between its layers."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 1, bias=False), nn.Tanh(), nn.Flatten(), nn.Linear(3, 2, bias=False)
    )


@pytest.fixture(scope="module")
def tiny_context():
    x = np.random.default_rng(5).normal(0, 1, (20, 2, 1, 1)).astype(np.float32)
    return context_of(tiny(), x, np.random.default_rng(6).integers(0, 2, 20))


def exact_traces(context):
    """By automatic differentiation of the tiny network written out, weights as one function."""
    first, last = (context.program.state_dict[n].detach() for n in ("0.weight", "3.weight"))
    x, labels = torch.from_numpy(context.x), torch.from_numpy(context.labels)

    def loss(first, last):
        hidden = torch.tanh(functional.conv2d(x, first)).flatten(1)
        return functional.cross_entropy(hidden @ last.T, labels)

    blocks = torch.autograd.functional.hessian(loss, (first, last))
    return {
        name: float(torch.einsum("ii", blocks[i][i].reshape(6, 6)))
        for i, name in enumerate(("0", "3"))
    }


def test_the_mean_over_all_signs_is_the_exact_trace(tiny_context):
    network = FloatNetwork(tiny_context.program)
    loss = loss_of(tiny_context)
    gradients = network.gradients(tiny_context.x, lambda y: loss(slice(0, 20), y))
    totals = dict.fromkeys(network.weights, 0.0)
    signs = list(itertools.product((-1.0, 1.0), repeat=6))
    for first, last in itertools.product(signs, signs[::7]):
        vectors = {"0": torch.tensor(first).reshape(3, 2, 1, 1), "3": torch.tensor(last)[None]}
        vectors["3"] = vectors["3"].reshape(2, 3)
        for name, value in network.quadratic_forms(gradients, vectors).items():
            totals[name] += value / (len(signs) * len(signs[::7]))
    exact = exact_traces(tiny_context)
    assert totals["0"] == pytest.approx(exact["0"], rel=1e-4)


def test_hutchinson_comes_near_the_exact_trace(tiny_context):
    exact = exact_traces(tiny_context)
    found = hutchinson(tiny_context, probes=400)
    assert set(found) == {"0", "3"}
    for name, trace in exact.items():
        assert trace > 0
        assert found[name] == pytest.approx(trace, rel=0.15)


def test_the_divergence_s_curvature_is_the_fisher_information(tiny_context):
    """Without labels: Tr = mean over images and classes of p |grad log p|^2."""
    x = torch.from_numpy(tiny_context.x)
    last = tiny_context.program.state_dict["3.weight"].detach().clone().requires_grad_()
    first = tiny_context.program.state_dict["0.weight"].detach()
    expected = 0.0
    for image in x:
        logits = torch.tanh(functional.conv2d(image[None], first)).flatten(1) @ last.T
        logs = functional.log_softmax(logits, 1)[0]
        for log in logs:
            (gradient,) = torch.autograd.grad(log, last, retain_graph=True)
            expected += float(log.detach().exp() * (gradient**2).sum()) / len(x)
    unlabelled = Context.of(tiny_context.program, tiny_context.graphs, tiny_context.x)
    assert hutchinson(unlabelled, probes=400)["3"] == pytest.approx(expected, rel=0.15)


def test_hessian_losses_are_mean_curvature_times_squared_error(tiny_context):
    traces, errors = hutchinson(tiny_context), squared_weight_errors(tiny_context)
    losses = METHODS["hessian"](tiny_context)
    for layer in ("0", "3"):
        for width in (4, 2):
            assert losses[layer][width] == pytest.approx(traces[layer] / 6 * errors[layer][width])


def test_batch_norm_is_folded_and_fixed_batches_are_kept_to(context):
    x = context.x[:7]
    module = network()
    fixed = torch.export.export(module, (torch.from_numpy(x[:4]),))
    expected = run_program(context.program, x[:4])
    found = FloatNetwork(fixed)
    assert np.allclose(found.run(x[:4]).detach().numpy(), expected, atol=1e-4)
    assert np.allclose(found.run(x[:2]).detach().numpy(), expected[:2], atol=1e-4)
    assert [*found.batches(7)] == [slice(0, 4)] and [*found.batches(2)] == [slice(0, 2)]
    assert not np.allclose(found.weights["a"].detach(), module.a.weight.detach())


# Comparison with what whole policies lose.


def test_policies_are_random_within_their_widths(context):
    policies = random_policies(context, 40, widths=(4, 2), fixed=("stem",))
    assert len(policies) == 40 and all(tuple(p) == context.layers for p in policies)
    assert {p["stem"] for p in policies} == {8}
    assert {p["a"] for p in policies} == {4, 2}
    assert policies == random_policies(context, 40, (4, 2), ("stem",))


def test_true_losses_and_sums_are_those_of_the_policies(context):
    methods = {
        "kl": METHODS["kl"](context),
        "flat": {n: {8: 0, 4: 0, 2: 0} for n in context.layers},
    }
    found = compare(context, methods, 6)
    rows = np.arange(len(context.x))
    for policy, loss, total in zip(found.policies, found.losses, found.sums["kl"], strict=True):
        y = outputs(mix(context.graphs, policy), context.codes)
        assert loss == pytest.approx(-log_softmax(y, axis=1)[rows, context.labels].mean(), rel=1e-5)
        assert total == sum(methods["kl"][layer][width] for layer, width in policy.items())
    assert found.unit == "cross-entropy"
    assert math.isnan(found.spearman["flat"])
    unlabelled = Context.of(context.program, context.graphs, context.x)
    again = compare(unlabelled, methods, 6)
    assert again.unit == "divergence" and again.policies == found.policies


def test_the_sum_of_divergences_orders_policies(context):
    unlabelled = Context.of(context.program, context.graphs, context.x)
    found = compare(unlabelled, {"kl": METHODS["kl"](unlabelled)}, 30)
    assert found.spearman["kl"] > 0.6


def test_networks_that_make_maps_are_ranked_by_squared_error():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1))
    maps = context_of(module, images(), np.zeros(12, np.int64))
    of_classes = ("alps", "limpq")
    losses = {name: METHODS[name](maps) for name in METHODS if name not in of_classes}
    assert losses["kl"] == losses["mse"]
    assert all(row[2] > row[4] > 0 for row in losses["hessian"].values())
    assert compare(maps, losses, 4).unit == "divergence"
    for name in of_classes:
        with pytest.raises(SearchError, match="one value a class"):
            METHODS[name](maps)


def test_rank_correlation():
    assert rank_correlation([1, 2, 3], [10, 20, 90]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4], [9, 8, 7, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(0.8)
