# SPDX-License-Identifier: Apache-2.0
"""Whole networks of MLPerf Tiny, where their files are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tflite_models import data_file, golden, litert

from bitloop.errors import FrontendError
from bitloop.frontend.tflite import import_tflite
from bitloop.graph.execute import execute, run_node
from bitloop.graph.ir import AvgPool


def test_resnet8_equals_litert() -> None:
    path = data_file("pretrainedResnet_quant.tflite")
    x = np.random.default_rng(0).integers(-128, 128, (200, 32, 32, 3)).astype(np.int8)
    logits = golden(path, x).reshape(200, 10)
    np.testing.assert_array_equal(logits, litert(path.read_bytes(), x, tensor=36))
    graph = import_tflite(path)
    assert [node.name for node in graph.nodes] == [
        "conv2d", "conv2d_1", "conv2d_2", "add", "conv2d_3", "conv2d_4", "conv2d_5", "add_1",
        "conv2d_6", "conv2d_7", "conv2d_8", "add_2", "average_pooling2d", "dense",
    ]  # fmt: skip


def test_dscnn_equals_litert_and_its_published_accuracy() -> None:
    path = data_file("kws_ref_model.tflite")
    with np.load(data_file("kws01_test.npz")) as archive:
        x, labels = archive["x"], archive["y"]
    logits = golden(path, x).reshape(1000, 12)
    assert (logits.argmax(1) == labels).sum() == 902
    np.testing.assert_array_equal(logits, litert(path.read_bytes(), x, tensor=33))
    assert isinstance(import_tflite(path).nodes[-2], AvgPool)


@pytest.mark.parametrize("name", ["pretrainedResnet_quant.tflite", "kws_ref_model.tflite"])
def test_layers_with_short_multipliers(name: str) -> None:
    """Each layer of 16-bit multipliers on the codes that 31 bits make. A network is as good only
    in what it decides: a code that differs early changes many after it."""
    path = data_file(name)
    long, short = import_tflite(path, 31), import_tflite(path, 16)
    (source,) = long.inputs
    shape = (50, *long.tensors[source].shape)
    x = np.random.default_rng(2).integers(0, 256, shape).astype(np.uint8)
    values = execute(long, {source: x}, keep=True)
    differ = total = 0
    for node in short.nodes:
        found = run_node(short, node, [values[tensor] for tensor in node.inputs])
        difference = np.abs(found.astype(int) - values[node.output])
        assert difference.max() <= 1, node.name
        differ += int((difference != 0).sum())
        total += difference.size
    assert 0 < differ <= 1e-3 * total


def test_short_multipliers_keep_the_accuracy() -> None:
    path = data_file("kws_ref_model.tflite")
    with np.load(data_file("kws01_test.npz")) as archive:
        x, labels = archive["x"], archive["y"]
    right = (golden(path, x, bits=16).reshape(1000, 12).argmax(1) == labels).sum()
    assert abs(int(right) - 902) <= 2, "0.2 points of the accuracy with 31 bits"


@pytest.mark.parametrize("name", ["pretrainedResnet_quant.tflite", "kws_ref_model.tflite"])
def test_damaged_networks(tmp_path: Path, name: str) -> None:
    good = data_file(name).read_bytes()
    rng = np.random.default_rng(5)
    path = tmp_path / "net.tflite"
    for i in range(300):
        content = bytearray(good)
        if i % 3 == 0:
            del content[int(rng.integers(len(content))) :]
        else:  # half of them where the tables are, past the weights
            low = 0 if i % 2 else len(content) * 9 // 10
            for place in rng.integers(low, len(content), int(rng.integers(1, 20))):
                content[place] = int(rng.integers(256))
        path.write_bytes(content)
        try:
            import_tflite(path, 31)
        except FrontendError as error:
            assert str(path) in str(error)
