# SPDX-License-Identifier: Apache-2.0
"""Writing exported programs."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.export import ExportedProgram

from ..files import replacing


def save_program(program: ExportedProgram, path: Path) -> None:
    """Writes a .pt2 file, complete or not at all."""
    with replacing(path) as temporary:
        torch.export.save(program, temporary)
