# SPDX-License-Identifier: Apache-2.0
"""Makes the networks of `tests/networks` and the comparison with PyTorch importable by tests."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "networks"), str(HERE / "frontend")]
