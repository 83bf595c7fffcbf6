# SPDX-License-Identifier: Apache-2.0
"""Traces of the Hessian and the losses made of them, against exact ones on small networks."""

import itertools

import numpy as np
import pytest
import torch
from sensitivity_networks import context_of, network
from torch import nn
from torch.nn import functional

from bitloop.programs import run_program
from bitloop.search.sensitivity import METHODS, Context
from bitloop.search.sensitivity.hessian import FloatNetwork, hutchinson, loss_of
from bitloop.search.sensitivity.layer import squared_weight_errors


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
