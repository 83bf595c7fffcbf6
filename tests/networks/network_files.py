# SPDX-License-Identifier: Apache-2.0
"""Networks of the catalogue as model files, and how those compare with PyTorch.

Not in the benchmark that asks for them: the process that makes them imports this module by its
name, and pytest's modules have none outside pytest.
"""

from __future__ import annotations

from pathlib import Path

import torch
from network_catalogue import WHOLE, build, images
from torch_programs import compare

from bitloop.programs import export_module, save_program
from bitloop.quantize import quantize

CALIBRATION = 4
LARGE = 50_000_000
"""Bytes of a model file from which on only one image is compared with PyTorch."""


def save(name: str, path: Path, onnx: bool) -> list[str]:
    """Quantizes a network and saves it; lines that say how it compares with PyTorch."""
    network = WHOLE[name]
    x = images(network.shape, CALIBRATION, 5)
    program = quantize(export_module(build(network), x), x)
    save_program(program, path)
    if onnx:
        batch = ({0: torch.export.Dim("batch", max=64)},)
        example = (torch.from_numpy(x[:2]),)
        exported = torch.onnx.export(program, example, dynamo=True, dynamic_shapes=batch)
        assert exported is not None
        exported.save(str(path.with_suffix(".onnx")))
    lines = []
    count = 1 if path.stat().st_size > LARGE else max(4, 2_000_000 // (x[0].size * 20))
    y = images(network.shape, min(count, 256), 6)
    for bits, share in ((31, 1e-5), (16, 1e-3)):
        for precise in (False, True):
            found = compare(program, bits, y, precise)
            kind = "double" if precise else "single"
            lines.append(
                f"{name}, m = {bits}, PyTorch in {kind} precision: {found.wrong} of "
                f"{found.outputs:,} codes differ ({found.wrong / found.outputs:.1e}), by "
                f"{found.largest} at most"
            )
            assert found.largest <= 1, lines
            assert found.wrong <= share * found.outputs or not precise, lines
    return lines
