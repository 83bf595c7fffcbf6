# SPDX-License-Identifier: Apache-2.0
"""Networks this small lose more to a second thread than they gain. Makes `tflite_models` importable
by tests."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
