# SPDX-License-Identifier: Apache-2.0
"""Quantization-aware training of `torch.export` programs."""

from .importance import learned_importance
from .methods import METHODS
from .options import TrainingOptions
from .trainer import State, TrainingResult, train

__all__ = ["METHODS", "State", "TrainingOptions", "TrainingResult", "learned_importance", "train"]
