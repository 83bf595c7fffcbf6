# SPDX-License-Identifier: Apache-2.0
"""Curvature of the loss times squared weight error (HAWQ-V2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Interpreter, Node
from torch.nn import functional

from ...frontend.program import weighted_layers
from ...programs import without_host
from ...quantize.points import folded_module, single_input
from ..problem import Losses
from .context import Context
from .divergence import is_scores, mean_square
from .layer import squared_weight_errors
from .network_output import cross_entropy_of

PROBES = 32
"""Random vectors: the trace of a layer of n weights comes out within about sqrt(2 / (32 n)) times
the norm of its Hessian over its mean eigenvalue."""
IMAGES = 128
BATCH = 64

Tensors = dict[str, torch.Tensor]
Loss = Callable[[slice, torch.Tensor], torch.Tensor]
"""Of images and the network's output for them: the mean loss."""


def hessian_trace(context: Context) -> Losses:
    """Tr(H) / n x ||W_b - W||^2: average eigenvalue of the loss's Hessian in the layer's n weights
    times the squared error of the weights at width b (HAWQ-V2, Dong et al., NeurIPS 2020, Eq. 5).

    The trace is Hutchinson's, through two backward passes of the float network, batch-norm folded.
    The loss is the cross-entropy of the labels; without labels the divergence from the network's
    own output, whose Hessian at the float weights is the Fisher information.
    """
    traces = hutchinson(context)
    sizes = {name: weight.numel() for name, weight in FloatNetwork(context.program).weights.items()}
    return {
        layer: {width: traces[layer] / sizes[layer] * error for width, error in row.items()}
        for layer, row in squared_weight_errors(context).items()
    }


def hutchinson(context: Context, probes: int = PROBES) -> dict[str, float]:
    """Traces of the layers' diagonal blocks of the loss's Hessian, never below 0: the mean of
    v^T H v over vectors v of random signs, drawn for all layers at once (Hutchinson 1989), on the
    first `IMAGES` images."""
    generator = torch.Generator().manual_seed(context.seed)
    network = FloatNetwork(context.program)
    totals = dict.fromkeys(network.weights, 0.0)
    images = min(IMAGES, len(context.x))
    loss = loss_of(context)
    for batch in network.batches(images):
        share = (batch.stop - batch.start) / images
        gradients = network.gradients(context.x[batch], partial(loss, batch))
        for probe in range(probes):
            context.progress(
                f"curvature: images from {batch.start} of {images}, probe {probe + 1} of {probes}"
            )
            signs = {
                name: torch.randint(0, 2, weight.shape, generator=generator) * 2.0 - 1.0
                for name, weight in network.weights.items()
            }
            for name, value in network.quadratic_forms(gradients, signs).items():
                totals[name] += share * value / probes
    return {name: max(0.0, total) for name, total in totals.items()}


def loss_of(context: Context) -> Loss:
    """Cross-entropy of the labels, or the divergence from the float network's own output."""
    if context.labels is not None and is_scores(context.reference):
        cross_entropy_of(context)  # checks the labels
        labels = torch.from_numpy(context.labels)
        return lambda images, y: functional.cross_entropy(y, labels[images])
    reference = torch.from_numpy(context.reference)
    if is_scores(context.reference):
        own = torch.softmax(reference, 1)
        return lambda images, y: functional.cross_entropy(y, own[images])
    power = mean_square(context.reference)
    return lambda images, y: functional.mse_loss(y, reference[images]) / power


class FloatNetwork:
    """The float network up to its logits, batch-norm folded, as a function of its weights."""

    def __init__(self, program: ExportedProgram) -> None:
        self.module = without_host(folded_module(program))
        self.names = weighted_layers(self.module.graph.nodes)
        self.weights: Tensors = {
            name: _attribute(self.module, node.args[1]).detach().clone().requires_grad_()
            for node, name in self.names.items()
        }
        size = single_input(program).meta["val"].shape[0]
        self.batch = size if isinstance(size, int) else None

    def batches(self, images: int) -> Iterator[slice]:
        """Parts of the images as the program takes them; with a fixed batch, whole ones (at least
        one, which `run` fills up)."""
        size = self.batch or BATCH
        whole = images if self.batch is None else max(images // size * size, min(images, size))
        for start in range(0, whole, size):
            yield slice(start, min(start + size, whole))

    def run(self, x: np.ndarray) -> torch.Tensor:
        """The logits of `x`, (images, ...), differentiable in `weights`."""
        images = len(x)
        if self.batch is not None:
            x = np.resize(x, (self.batch, *x.shape[1:]))
        result = _Run(self.module, self.names, self.weights).run(torch.from_numpy(x))
        while isinstance(result, tuple | list):
            result = result[0]
        return result[:images]

    def gradients(self, x: np.ndarray, loss: Callable[[torch.Tensor], torch.Tensor]) -> Tensors:
        """Of the loss of the outputs of `x`, by layer, themselves differentiable."""
        found = torch.autograd.grad(
            loss(self.run(x)), list(self.weights.values()), create_graph=True,
            materialize_grads=True,
        )  # fmt: skip
        return dict(zip(self.weights, found, strict=True))

    def quadratic_forms(self, gradients: Tensors, vectors: Tensors) -> dict[str, float]:
        """v^T (H v) by layer, v being all layers' vectors at once: in expectation over independent
        signs each layer's trace, the blocks between layers cancel."""
        smooth = [name for name, gradient in gradients.items() if gradient.requires_grad]
        if not smooth:
            return dict.fromkeys(self.weights, 0.0)
        products = torch.autograd.grad(
            [gradients[name] for name in smooth], list(self.weights.values()),
            [vectors[name] for name in smooth], retain_graph=True, materialize_grads=True,
        )  # fmt: skip
        return {
            name: float((vectors[name] * product).sum())
            for name, product in zip(self.weights, products, strict=True)
        }


class _Run(Interpreter):
    """Runs a module with the weights of its layers given from outside."""

    def __init__(self, module: GraphModule, names: Mapping[Node, str], weights: Tensors) -> None:
        super().__init__(module)
        self.names, self.given = names, weights

    def fetch_args_kwargs_from_env(self, n: Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args, kwargs = super().fetch_args_kwargs_from_env(n)
        if n in self.names:
            args = (args[0], self.given[self.names[n]], *args[2:])
        return args, kwargs


def _attribute(module: GraphModule, node: Any) -> torch.Tensor:
    """The tensor of a node that gets an attribute of the module."""
    value: Any = module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value
