# SPDX-License-Identifier: Apache-2.0
"""Makes the networks of `tests/networks` and the comparison with PyTorch importable by benchmarks,
and by the processes they start."""

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / "networks"), str(TESTS / "sw" / "frontend")]
