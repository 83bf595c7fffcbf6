# SPDX-License-Identifier: Apache-2.0
"""`import bitloop`: the examples of its verbs run, and say what they say."""

import doctest
import inspect

import numpy as np
import pytest
import torch
from torch import nn

import bitloop
from bitloop.errors import SearchError

VERBS = ("quantize", "compile", "measure", "search")


@pytest.fixture
def network_and_images():
    torch.manual_seed(3)
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    generator = np.random.default_rng(1)
    return network, generator.random((64, 1, 8, 8), dtype=np.float32), generator


@pytest.fixture(autouse=True)
def no_store(tmp_path, monkeypatch, request):
    """Searches here neither find nor leave anything in the user's store."""
    from bitloop.sim.cache import cache_folder

    builds = cache_folder() / "builds"
    builds.mkdir(exist_ok=True)
    (tmp_path / "builds").symlink_to(builds)
    monkeypatch.setenv("BITLOOP_CACHE", str(tmp_path))


@pytest.mark.parametrize("name", VERBS)
def test_the_example_of_a_verb_has_about_ten_lines_and_is_true(name):
    verb = getattr(bitloop, name)
    (example,) = doctest.DocTestFinder().find(verb, name, globs={})
    assert 5 <= len(example.examples)
    assert 8 <= sum(line.lstrip().startswith((">>>", "...")) for line in verb.__doc__.split("\n"))
    runner = doctest.DocTestRunner(optionflags=doctest.FAIL_FAST)
    report = []
    runner.run(example, out=report.append)
    assert runner.failures == 0, "".join(report)


def test_all_verbs_are_documented():
    for name in bitloop.__all__:
        assert inspect.getdoc(getattr(bitloop, name))


def test_a_search_from_python_takes_every_budget(network_and_images):
    network, x, generator = network_and_images
    y = generator.integers(0, 10, 64)
    common = dict(preset="n4", device="model")
    ratio = bitloop.search(network, x, y, budget_ratio=0.8, pareto=3, **common)
    assert ratio.front and ratio.accuracy is not None
    limit = ratio.limits["cycles"]
    timed = bitloop.search(network, x, y, budget_ms=limit / 50e3, clock_mhz=50.0, **common)
    assert timed.weight_bits == ratio.weight_bits and timed.measured == 0
    small = bitloop.search(network, x, budget_weight_bytes=1600, **common)
    assert small.weight_bytes <= 1600 and small.accuracy is None
    with pytest.raises(SearchError, match="give one budget"):
        bitloop.search(network, x, **common)


def test_options_of_quantization_arrive(network_and_images):
    network, x, _ = network_and_images
    programs = [
        bitloop.quantize(network, x, 2, weight_method=method).module()(torch.from_numpy(x))
        for method in ("max", "mse")
    ]
    assert not torch.equal(*programs)
