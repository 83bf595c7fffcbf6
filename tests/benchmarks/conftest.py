# SPDX-License-Identifier: Apache-2.0
"""Makes the networks of `tests/networks`, the comparison with PyTorch and the modules beside this
one importable by benchmarks, and by the processes they start."""

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
FOLDERS = ("networks", "sw/frontend", "benchmarks")
sys.path[:0] = [str(TESTS / folder) for folder in FOLDERS]
