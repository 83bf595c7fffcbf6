# SPDX-License-Identifier: Apache-2.0
"""Model files by their content, whatever they are called."""

from __future__ import annotations

from pathlib import Path

from ..errors import FrontendError
from ..graph.ir import Graph
from .onnx_model import is_onnx, read_onnx
from .tflite import is_tflite, read_tflite


def import_file(path: Path, multiplier_bits: int) -> tuple[Graph, tuple[str, ...]]:
    """The integer graph of a quantized model file, TensorFlow Lite, ONNX or torch.export (.pt2),
    and notes on what of the model it leaves to the host.

    Raises `FrontendError`.
    """
    try:
        tensorflow, onnx = is_tflite(path), is_onnx(path)
    except FileNotFoundError:
        raise FrontendError(f"{path}: no such file") from None
    except OSError as error:
        raise FrontendError(f"{path}: cannot be read: {error.strerror}") from None
    if tensorflow:
        imported = read_tflite(path, multiplier_bits)
        return imported.graph, imported.notes
    if onnx:
        return read_onnx(path, multiplier_bits)
    from .torch_export import import_program, load_program

    return import_program(load_program(path), path.stem, multiplier_bits), ()
