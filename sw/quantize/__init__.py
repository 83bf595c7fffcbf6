# SPDX-License-Identifier: Apache-2.0
"""Quantization of `torch.export` programs."""

from .calibration import ActivationRanges, calibrate
from .parameters import ActivationParameters, ActivationScheme, QuantizationParameters
from .post_training import layer_names, quantize
from .write import write_program

__all__ = [
    "ActivationParameters",
    "ActivationRanges",
    "ActivationScheme",
    "QuantizationParameters",
    "calibrate",
    "layer_names",
    "quantize",
    "write_program",
]
