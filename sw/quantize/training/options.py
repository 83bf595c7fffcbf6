# SPDX-License-Identifier: Apache-2.0
"""What a training can be asked for."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from ...errors import DataError
from .batches import AUGMENTATIONS
from .methods import METHODS


@dataclass(frozen=True)
class TrainingOptions:
    """Of the one loop. With the same options, data and threads the result is the same, unless
    `minutes` ends the training: the learning rate then follows the clock."""

    method: str = "lsq+"
    """One of `METHODS`."""
    epochs: int = 10
    minutes: float | None = None
    """Ends the training after so much time, its rate fallen to 0, where epochs take longer."""
    batch: int = 128
    rate: float = 0.01
    """Highest learning rate; it rises over the first twentieth and falls along a cosine to 0
    (Loshchilov and Hutter, SGDR, ICLR 2017)."""
    momentum: float = 0.9
    weight_decay: float = 1e-4
    """Of weights, and of PACT's clipping levels."""
    distill: bool = False
    """Learn from the float network too, or alone where there are no labels."""
    temperature: float = 4.0
    """Of distillation."""
    sharpness: float = 0.0
    """rho of sharpness-aware quantization; 0 for none. Doubles the time."""
    auxiliary: bool = False
    """Train a full-precision auxiliary module along."""
    augmentation: str = "none"
    """`none`, `shift` (by up to an eighth of the size) or `mirror-shift`."""
    activation_bits: int = 8
    """Below 8: a simulation of activations that the core does not have."""
    frozen: float = 0.1
    """Last part of the training in which batch-norm keeps its statistics, as the exported network
    does."""
    seed: int = 0
    threads: int = 2

    def check(self) -> None:
        """Raises `DataError` for a value that makes no sense."""
        if self.method not in METHODS:
            raise DataError(f"no training method {self.method!r}; there are {', '.join(METHODS)}")
        if self.augmentation not in AUGMENTATIONS:
            raise DataError(
                f"no augmentation {self.augmentation!r}; there are {', '.join(AUGMENTATIONS)}"
            )
        for name, least, most in (
            ("epochs", 1, 100_000), ("batch", 1, 1 << 20), ("rate", 0.0, 100.0),
            ("momentum", 0.0, 0.999), ("weight_decay", 0.0, 10.0), ("temperature", 0.01, 1000.0),
            ("sharpness", 0.0, 100.0), ("activation_bits", 2, 8), ("frozen", 0.0, 1.0),
            ("seed", 0, (1 << 62) - 1), ("threads", 1, 1024),
        ):  # fmt: skip
            value = getattr(self, name)
            if not (math.isfinite(value) and least <= value <= most):
                raise DataError(f"{name}: must be {least} to {most}, not {value!r}")
        if self.minutes is not None and not (math.isfinite(self.minutes) and self.minutes > 0):
            raise DataError(f"minutes: must be above 0, not {self.minutes!r}")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
