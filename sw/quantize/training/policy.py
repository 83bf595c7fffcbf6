# SPDX-License-Identifier: Apache-2.0
"""Weight bits as a command line gives them."""

from __future__ import annotations

import json
from pathlib import Path

from ...errors import DataError
from ..weights import WIDTHS

LARGEST = 1 << 20
"""Bytes of a policy."""


def load_policy(text: str) -> int | dict[str, int]:
    """Bits of all layers ("4") or, from the JSON file named, by layer: {"fc": 4}, alone or under
    the key `weight_bits`. Raises `DataError` for anything else, `OSError` for a file that
    cannot be read."""
    if text.strip().isdecimal():
        bits = int(text)
        if bits not in WIDTHS:
            raise DataError(f"weights: must have 2 to 8 bits, not {bits}")
        return bits
    path = Path(text)
    if not path.exists():
        raise DataError(
            f"{path}: No such file; weights are bits, 2 to 8, or a JSON file of them by layer name"
        )
    with path.open("rb") as file:
        raw = file.read(LARGEST + 1)
    try:
        if len(raw) > LARGEST:
            raise ValueError(f"more than {LARGEST} bytes")
        policy = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a JSON policy ({error})") from None
    if isinstance(policy, dict) and isinstance(policy.get("weight_bits"), dict):
        policy = policy["weight_bits"]
    if not isinstance(policy, dict) or not policy:
        raise DataError(f'{path}: must be an object of bits by layer name, such as {{"fc": 4}}')
    for name, bits in policy.items():
        if type(bits) is not int or bits not in WIDTHS:
            raise DataError(f"{path}: layer {name!r} must have 2 to 8 bits, not {bits!r}")
    return policy
