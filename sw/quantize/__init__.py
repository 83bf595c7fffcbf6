# SPDX-License-Identifier: Apache-2.0
"""Post-training quantization of `torch.export` programs."""

from .calibration import ActivationRanges, calibrate
from .post_training import layer_names, quantize

__all__ = ["ActivationRanges", "calibrate", "layer_names", "quantize"]
