# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: a safetensors file of all tensors, with what it belongs to as JSON in its header.

No pickle. Written whole or not at all; a file that is damaged, of another network, of other data or
of other options is refused before anything of it is used.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.export import ExportedProgram

from ...dataset import Dataset
from ...errors import DataError
from ...files import replacing

FORMAT = 1
KEY = "bitloop-training"
MAY_DIFFER = ("minutes", "threads")
"""Options that a resumed training may change."""


@dataclass(frozen=True)
class Identity:
    """What a checkpoint belongs to."""

    program: str
    """SHA-256 of the float program's operators and tensors."""
    data: str
    """SHA-256 of the training images and labels."""
    bits: Mapping[str, int]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Progress:
    """How far a training is."""

    step: int
    """Steps done."""
    seconds: float
    """Time they took, over all sessions."""
    losses: tuple[float, ...]
    """Mean loss of each epoch done."""
    epoch_loss: float
    """Sum of the losses of the epoch begun."""
    frozen: bool
    """Whether batch-norm keeps its statistics by now."""


def fingerprint(program: ExportedProgram, data: Dataset) -> tuple[str, str]:
    """SHA-256 of a program and of data, in hexadecimal."""
    network = hashlib.sha256(str(program.graph).encode())
    for name, tensor in sorted({**program.state_dict, **program.constants}.items()):
        if isinstance(tensor, Tensor):
            network.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
            network.update(np.ascontiguousarray(tensor.detach().numpy()).tobytes())
    images = hashlib.sha256(str(data.x.shape).encode())
    images.update(np.ascontiguousarray(data.x).data)
    if data.y is not None:
        images.update(np.ascontiguousarray(data.y).data)
    return network.hexdigest(), images.hexdigest()


def save_checkpoint(
    path: Path, identity: Identity, progress: Progress, tensors: Mapping[str, Tensor]
) -> None:
    """Raises `OSError` where the file cannot be written; the one before then stays."""
    header = {
        "format": FORMAT,
        "program": identity.program,
        "data": identity.data,
        "bits": dict(identity.bits),
        "options": dict(identity.options),
        "step": progress.step,
        "seconds": progress.seconds,
        "losses": list(progress.losses),
        "epoch_loss": progress.epoch_loss,
        "frozen": progress.frozen,
    }
    with replacing(path) as temporary:
        copies = {name: t.detach().clone().contiguous() for name, t in tensors.items()}
        save_file(copies, temporary, metadata={KEY: json.dumps(header)})


def load_checkpoint(
    path: Path, identity: Identity, tensors: Mapping[str, Tensor]
) -> tuple[Progress, dict[str, Tensor]]:
    """Progress and tensors, named, shaped and typed as `tensors`.

    Raises `DataError` for a file that is no undamaged checkpoint of this training, `OSError` for
    one that cannot be read.
    """
    with path.open("rb"):
        pass
    try:
        with safe_open(path, framework="pt") as file:
            header = _header(path, (file.metadata() or {}).get(KEY))
            _check_identity(path, header, identity)
            names = set(file.keys())
            if names != set(tensors):
                odd = sorted(names ^ set(tensors))[0]
                raise _damaged(path, f"tensor {odd!r} is missing or unknown")
            found = {name: file.get_tensor(name) for name in tensors}
    except (SafetensorError, ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from None
    for name, tensor in found.items():
        expected = tensors[name]
        if tensor.shape != expected.shape or tensor.dtype != expected.dtype:
            raise _damaged(
                path,
                f"tensor {name!r} is {tensor.dtype} {tuple(tensor.shape)}, not {expected.dtype} "
                f"{tuple(expected.shape)}",
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise _damaged(path, f"tensor {name!r} holds values that are not finite")
    return _progress(path, header), found


def _damaged(path: Path, why: str) -> DataError:
    return DataError(f"{path}: not a checkpoint that can be resumed ({why}); start without it")


def _header(path: Path, text: str | None) -> dict[str, Any]:
    if text is None:
        raise _damaged(path, "no header of a training")
    header = json.loads(text)
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise _damaged(path, "a header of another format")
    return header


def _check_identity(path: Path, header: Mapping[str, Any], identity: Identity) -> None:
    for key, what in (("program", "network"), ("data", "data")):
        if header.get(key) != getattr(identity, key):
            raise DataError(
                f"{path}: the checkpoint is of other {what}; give the same or start without it"
            )
    if header.get("bits") != dict(identity.bits):
        raise DataError(f"{path}: the checkpoint is of other weight bits; start without it")
    theirs = header.get("options")
    if not isinstance(theirs, dict):
        raise _damaged(path, "no options")
    for name, value in identity.options.items():
        if name not in MAY_DIFFER and theirs.get(name) != value:
            raise DataError(
                f"{path}: the checkpoint was trained with {name} {theirs.get(name)!r}, not "
                f"{value!r}; give the same or start without it"
            )


def _progress(path: Path, header: Mapping[str, Any]) -> Progress:
    step, losses = header.get("step"), header.get("losses")
    numbers = [header.get("seconds"), header.get("epoch_loss")]
    numbers += losses if isinstance(losses, list) else [None]
    if (
        not isinstance(step, int)
        or isinstance(step, bool)
        or step < 0
        or not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers)
        or numbers[0] < 0  # type: ignore[operator]
        or not isinstance(header.get("frozen"), bool)
    ):
        raise _damaged(path, "its progress makes no sense")
    seconds, epoch_loss, *losses = [float(n) for n in numbers]  # type: ignore[arg-type]
    return Progress(step, seconds, tuple(losses), epoch_loss, header["frozen"])
