# SPDX-License-Identifier: Apache-2.0
"""Makes `sensitivity_networks` importable by tests, and its network's context."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def context():
    from sensitivity_networks import CLASSES, context_of, images, network

    labels = np.random.default_rng(1).integers(0, CLASSES, 12)
    return context_of(network(), images(), labels)
