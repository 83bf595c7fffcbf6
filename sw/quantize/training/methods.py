# SPDX-License-Identifier: Apache-2.0
"""Methods of quantization-aware training: a quantizer of weights and one of activations each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from . import activation_quantizers as activations
from . import weight_quantizers as weights
from .activation_quantizers import ActivationQuantizer
from .weight_quantizers import WeightQuantizer


@dataclass(frozen=True)
class Method:
    weights: Callable[[Tensor, int, bool], WeightQuantizer]
    """Of a float weight (output channels first), its bits, and whether batch-norm follows."""
    activations: Callable[[float, float, int, int], ActivationQuantizer]
    """Of the ends of a calibrated range, the bits, and the features of an image."""


METHODS: dict[str, Method] = {
    "ste": Method(weights.StraightThrough, ActivationQuantizer),
    "lsq": Method(weights.LearnedStepSize, activations.LearnedStepSize),
    "lsq+": Method(weights.LearnedStepSize, activations.LearnedStepAndOffset),
    "pact": Method(weights.TanhNormalized, activations.ClippingLevels),
    "dorefa": Method(weights.TanhNormalized, ActivationQuantizer),
    "dsq": Method(weights.SoftQuantized, activations.SoftQuantized),
    "sat": Method(weights.ScaleAdjusted, activations.CalibratedClippingLevel),
}
"""By name. DoReFa's activations are clipped to a fixed range, here the calibrated one; PACT takes
DoReFa's weights, as its paper does."""
