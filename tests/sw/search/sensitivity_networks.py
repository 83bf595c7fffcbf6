# SPDX-License-Identifier: Apache-2.0
"""A small network whose sensitivities are known or computed otherwise, and its contexts."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from bitloop.frontend.torch_export import import_program
from bitloop.programs import export_module
from bitloop.quantize import calibrate, quantize
from bitloop.search.sensitivity import Context

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
