# SPDX-License-Identifier: Apache-2.0
"""Results of expensive work, kept by what they follow from: how an interrupted search goes on.

The search is deterministic, so running it again asks for the same work in the same order; what is
known already takes no time. A key is a hash of everything that a result depends on, the software's
own sources included.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import bitloop.hw.config

if TYPE_CHECKING:
    from torch.export import ExportedProgram

LIBRARIES = ("numpy", "scipy", "torch", "torchao")
"""Distributions that results depend on."""
HARDWARE_DEFINITIONS = ("config.py", "isa.py", "registers.py")


class Memo(Protocol):
    def result(self, key: str) -> bytes | None:
        """What was kept under `key`, None where nothing was."""

    def keep(self, key: str, kind: str, content: bytes) -> None:
        """Keeps `content`; `kind` is for people."""


class Forgetful:
    """Keeps nothing."""

    def result(self, key: str) -> bytes | None:
        return None

    def keep(self, key: str, kind: str, content: bytes) -> None:
        pass


@cache
def sources() -> str:
    """SHA-256 of the software that results depend on, as it was when first asked."""
    root = Path(__file__).parents[1]
    hardware = Path(bitloop.hw.config.__file__).parent
    files = [*sorted(root.rglob("*.py")), *(hardware / name for name in HARDWARE_DEFINITIONS)]
    digest = hashlib.sha256()
    for library in LIBRARIES:
        digest.update(f"{library} {importlib.metadata.version(library)};".encode())
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.name}:{len(content)}:".encode() + content)
    return digest.hexdigest()


def key(kind: str, *parts: object) -> str:
    """A key of work of this kind on `parts`: bytes, or what JSON can say."""
    digest = hashlib.sha256(f"{kind}:{sources()}".encode())
    for part in parts:
        content = part if isinstance(part, bytes) else canonical(part).encode()
        digest.update(f":{len(content)}:".encode() + content)
    return digest.hexdigest()


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def program_digest(program: ExportedProgram) -> str:
    """SHA-256 of a program's operators and of all its numbers; names of files do not matter."""
    import torch  # here: workers, which need `sources`, need no PyTorch

    digest = hashlib.sha256(str(program.graph).encode())
    for name, value in [*program.state_dict.items(), *program.constants.items()]:
        if isinstance(value, torch.Tensor):
            content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            digest.update(f"{name}:{value.dtype}:{tuple(value.shape)}:".encode())
            digest.update(content.tobytes())
    return digest.hexdigest()
