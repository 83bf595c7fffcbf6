# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitloop.search.sensitivity import divergence, monotone


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


@given(st.dictionaries(st.sampled_from([2, 3, 4, 6, 8]), st.floats(0, 100), min_size=1))
def test_narrower_never_loses_less(losses):
    result = monotone(losses)
    ordered = [result[width] for width in sorted(result, reverse=True)]
    assert ordered == sorted(ordered)
    assert all(result[width] >= losses[width] for width in losses)
    assert set(result.values()) <= {0.0, *losses.values()}
