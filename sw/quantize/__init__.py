# SPDX-License-Identifier: Apache-2.0
"""Quantization of `torch.export` programs."""

from .analysis import LayerError, integer_accuracy, layer_errors
from .calibration import ActivationRanges, calibrate
from .parameters import ActivationParameters, ActivationScheme, QuantizationParameters
from .post_training import layer_names, quantize
from .repairs import repair_parameters, repair_program
from .simulate import simulate
from .write import write_program

__all__ = [
    "ActivationParameters",
    "ActivationRanges",
    "ActivationScheme",
    "LayerError",
    "QuantizationParameters",
    "calibrate",
    "integer_accuracy",
    "layer_errors",
    "layer_names",
    "quantize",
    "repair_parameters",
    "repair_program",
    "simulate",
    "write_program",
]
