# SPDX-License-Identifier: Apache-2.0
"""Whole networks quantized by ONNX Runtime: every layer's codes equal its integer kernels'."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx_models import (
    Model,
    compare,
    final,
    images,
    layers,
    quantized,
    run,
)
from onnxruntime.quantization import (
    QuantFormat,
    QuantType,
)

from bitloop.frontend.onnx_model import import_onnx
from bitloop.graph.ir import Add, Conv


def resnet20(state: dict[str, torch.Tensor]) -> Model:
    """ResNet-20 for CIFAR-10 with batch normalization folded; shortcuts that halve the image are
    convolutions with an identity."""
    m = Model()

    def conv(source: str, index: str, norm: str, stride: int) -> str:
        scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + 1e-5).sqrt()
        weight = state[f"{index}.weight"] * scale[:, None, None, None]
        bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
        constants = [m.constant(f"{index}.w", weight), m.constant(f"{index}.b", bias)]
        return m.node("Conv", [source, *constants], index, pads=[1] * 4, strides=[stride] * 2)

    x = m.node("Relu", [conv("x", "conv1", "bn1", 1)], "relu")
    channels = 16
    for stage in (1, 2, 3):
        for block in (0, 1, 2):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            hidden = m.node(
                "Relu", [conv(x, f"{name}.conv1", f"{name}.bn1", stride)], f"{name}.relu"
            )
            hidden = conv(hidden, f"{name}.conv2", f"{name}.bn2", 1)
            if stride == 2:
                identity = np.zeros((2 * channels, channels, 1, 1), np.float32)
                np.fill_diagonal(identity[channels // 2 :, :, 0, 0], 1)
                kernel = m.constant(f"{name}.identity", identity)
                x = m.node("Conv", [x, kernel], f"{name}.shortcut", strides=[2, 2])
                channels *= 2
            x = m.node("Relu", [m.node("Add", [hidden, x], f"{name}.add")], name)
    x = m.node("Flatten", [m.node("GlobalAveragePool", [x], "pool")], "flat")
    layer = [m.constant(key, state[f"linear.{key}"]) for key in ("weight", "bias")]
    m.node("Gemm", [x, *layer], "linear", transB=1)
    return m


@pytest.mark.parametrize("kind", [QuantFormat.QDQ, QuantFormat.QOperator])
def test_resnet20_equals_onnxruntime(tmp_path: Path, kind: QuantFormat) -> None:
    folder = os.environ.get("BITLOOP_DATA")
    file = Path(folder or ".", "resnet20-12fca82f.th")
    if not folder or not file.is_file():
        pytest.skip(f"needs {file.name} in the folder that BITLOOP_DATA names")
    loaded = torch.load(file, weights_only=True, map_location="cpu")["state_dict"]
    state = {key.removeprefix("module."): value for key, value in loaded.items()}
    model = resnet20(state).save(tmp_path / "f.onnx", ("n", 3, 32, 32), "linear", opset=17)
    # Patches of one colour each, as far from noise as pictures are.
    batch = images(12, (3, 8, 8)).repeat(4, 2).repeat(4, 3)
    path = quantized(tmp_path, model, kind, QuantType.QUInt8, True, batch[:8])
    graph = import_onnx(path, 31)
    assert not any(compare(path, graph, batch[8:]).values())
    found = final(graph, batch[8:])[:, 0, 0]
    name = "linear_QuantizeLinear_Output" if kind is QuantFormat.QDQ else "linear_quantized"
    expected = run(path, batch[8:], {name})[name]
    np.testing.assert_array_equal(found, expected)


def mobilenet() -> Model:
    """A stack of MobileNetV2's blocks: inverted residuals with linear bottlenecks and ReLU6."""
    m = Model(7)
    limits = [m.constant("zero", np.float32(0)), m.constant("six", np.float32(6))]

    def conv(source: str, name: str, outputs: int, inputs: int, kernel: int = 1, stride: int = 1,
             groups: int = 1, six: bool = True) -> str:  # fmt: skip
        scale = m.constant(f"{name}.w", 1.5 * weights(m, outputs, inputs // groups, kernel, kernel))
        made = m.node("Conv", [source, scale, m.weight(f"{name}.b", outputs)], name, group=groups,
                      pads=[kernel // 2] * 4, strides=[stride] * 2)  # fmt: skip
        return m.node("Clip", [made, *limits], f"{name}.relu6") if six else made

    x, channels = conv("x", "stem", 16, 3, 3, 2), 16
    for block, (expand, outputs, stride) in enumerate(
        [(1, 8, 1), (6, 12, 2), (6, 12, 1), (6, 16, 2), (6, 16, 1), (6, 16, 1), (6, 24, 1)]
    ):
        hidden, wide = x, channels * expand
        if expand > 1:
            hidden = conv(x, f"b{block}.expand", wide, channels)
        hidden = conv(hidden, f"b{block}.depthwise", wide, wide, 3, stride, wide)
        hidden = conv(hidden, f"b{block}.project", outputs, wide, six=False)
        if stride == 1 and outputs == channels:
            hidden = m.node("Add", [hidden, x], f"b{block}.add")
        x, channels = hidden, outputs
    x = m.node("GlobalAveragePool", [conv(x, "head", 96, channels)], "pool")
    flat = m.node("Flatten", [x], "flat")
    m.node("Gemm", [flat, m.weight("fc.w", 10, 96), m.weight("fc.b", 10)], "fc", transB=1)
    return m


def weights(m: Model, *shape: int) -> NDArray[np.float32]:
    return (m.random.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


@pytest.mark.parametrize("kind", [QuantFormat.QDQ, QuantFormat.QOperator])
@pytest.mark.parametrize("activations", [QuantType.QUInt8, QuantType.QInt8])
def test_mobilenet_equals_onnxruntime(
    tmp_path: Path, kind: QuantFormat, activations: QuantType
) -> None:
    """Every layer on ONNX Runtime's own codes: all equal with 31 bits, but for sums and averages
    next to a tie; of 16 bits' at most 1e-3 differ, by one code. With int8 activations ONNX Runtime
    leaves most convolutions between dequantize and quantize operators to its float32 kernels, whose
    sums may fall on the other side of a tie."""
    model = mobilenet().save(tmp_path / "f.onnx", ("n", 3, 32, 32), "fc", opset=17)
    batch = images(12, (3, 8, 8)).repeat(4, 2).repeat(4, 3)
    path = quantized(tmp_path, model, kind, activations, True, batch[:8])
    graph = import_onnx(path, 31)
    assert sum(isinstance(node, Conv) for node in graph.nodes) == 23
    assert sum(isinstance(node, Add) for node in graph.nodes) == 3
    if kind is QuantFormat.QOperator or activations is QuantType.QUInt8:
        mismatches = compare(path, graph, batch[8:])
        assert sum(mismatches.values()) <= 4, mismatches
    for bits, share in ((31, 2e-5), (16, 1e-3)):
        wrong = total = 0
        for values, expected, node in layers(path, import_onnx(path, bits), batch[8:]):
            difference = np.abs(values.astype(int) - expected.astype(int))
            assert difference.max() <= 1, node.name
            wrong += int(difference.sum())
            total += difference.size
        assert wrong <= share * total, f"{wrong} of {total}"
