# SPDX-License-Identifier: Apache-2.0
"""Makes the stand-in core importable by tests and by the simulations they start."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
