# SPDX-License-Identifier: Apache-2.0
"""Makes the stand-in core importable by tests and by the simulations they start, and the networks
of `tests/networks` by tests."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "networks")]
