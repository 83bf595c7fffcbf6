# SPDX-License-Identifier: Apache-2.0
"""ONNX files that are foreign, damaged or hostile, and models that are refused."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from onnx_models import (
    Model,
    equal_nodes,
    images,
    layer,
    network,
    quantized,
)
from onnxruntime.quantization import (
    QuantFormat,
    QuantType,
)

from bitloop.errors import FrontendError
from bitloop.frontend.onnx_model import import_onnx, is_onnx


def test_detection(tmp_path: Path) -> None:
    path = network().save(tmp_path / "a", ("batch", 3, 16, 16), "y", opset=17)
    assert is_onnx(path)
    with pytest.raises(FrontendError, match="quantize_static"):
        import_onnx(path)
    for content in (b"", b"P", b"PK\x03\x04" + bytes(80), b"\x08\x07", bytes(range(256))):
        path.write_bytes(content)
        assert not is_onnx(path)
        with pytest.raises(FrontendError):
            import_onnx(path)
    with pytest.raises(FrontendError, match="No such file"):
        import_onnx(tmp_path / "none.onnx")


def test_problems_are_listed_together(tmp_path: Path) -> None:
    m = Model()
    x = m.fake("x", 0.02, np.uint8(128))
    m.node("TopK", [x, m.constant("k", [2])], "a")
    m.node("Mul", [m.fake("a", 1.0, np.uint8(0)), x], "b")
    m.node("MatMulInteger", [x, "k"], "c")
    m.node("Conv", [x, m.weight("w", 4, 3, 1, 1)], "d", name="named")
    path = m.save(tmp_path / "m.onnx", (1, 3, 4, 4), "d")
    with pytest.raises(FrontendError) as caught:
        import_onnx(path)
    lines = str(caught.value).splitlines()[1:]
    assert [line.split(":")[0].strip() for line in lines] == [
        "a (TopK)", "c (MatMulInteger)", "named (Conv)",
    ]  # fmt: skip
    assert "not supported" in lines[0]
    assert "quantize statically" in lines[1]
    assert "weight is not quantized" in lines[2]


def refused(m: Model, tmp_path: Path, output: str, match: str) -> None:
    path = m.save(tmp_path / "m.onnx", (1, 3, 4, 4), output)
    with pytest.raises(FrontendError, match=match):
        import_onnx(path)


def test_refuses_activations_with_a_scale_a_channel(tmp_path: Path) -> None:
    m = Model()
    scales = m.constant("s", np.ones(3, np.float32)), m.constant("z", np.zeros(3, np.uint8))
    codes = m.node("QuantizeLinear", ["x", *scales], "codes")
    refused(m, tmp_path, m.node("DequantizeLinear", [codes, *scales], "y"), "one a channel")


def test_refuses_softmax_inside(tmp_path: Path) -> None:
    m = Model()
    soft = m.node("Softmax", [m.fake("x", 0.02, np.uint8(128))], "soft", axis=1)
    y = m.fake(m.node("Relu", [soft], "relu"), 1 / 256, np.uint8(0))
    refused(m, tmp_path, y, r"relu \(Relu\): .*softmax.*only as last")


def test_refuses_cycles_and_second_producers(tmp_path: Path) -> None:
    m = Model()
    m.node("Relu", [m.fake("b", 1.0, np.uint8(0))], "a")
    m.node("Relu", ["a"], "b")
    refused(m, tmp_path, "b", "cycle")
    m = Model()
    x = m.fake("x", 0.02, np.uint8(128))
    m.node("Relu", [x], "y")
    m.node("Relu", [x], "y")
    refused(m, tmp_path, "y", "two producers")


def test_refuses_sizes_that_are_not_there(tmp_path: Path) -> None:
    m = network()
    path = m.save(tmp_path / "m.onnx", ("n", 3, 16, 16), "y")
    model = onnx.load(path)
    model.graph.initializer[0].dims[0] = 1 << 40
    onnx.save(model, path)
    with pytest.raises(FrontendError, match="'w1' of shape .* not all there"):
        import_onnx(path)
    with pytest.raises(FrontendError, match="only the batch may be free"):
        import_onnx(m.save(path, ("n", 3, "h", "w"), "y"))
    with pytest.raises(FrontendError, match="5 dimensions"):
        import_onnx(m.save(path, ("n", 3, 4, 4, 4), "y"))


def test_external_data_stays_in_the_folder_of_the_model(tmp_path: Path) -> None:
    float_path = network().save(tmp_path / "f.onnx", ("n", 3, 16, 16), "y", opset=17)
    path = quantized(
        tmp_path, float_path, QuantFormat.QDQ, QuantType.QUInt8, False, images(4)
    )  # fmt: skip
    folder = tmp_path / "split"
    folder.mkdir()
    model = onnx.load(path)
    onnx.save_model(
        model, folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0
    )
    outside, inside = import_onnx(path), import_onnx(folder / "m.onnx")
    assert all(map(equal_nodes, outside.nodes, inside.nodes))
    (folder / "m.data").rename(tmp_path / "m.data")
    with pytest.raises(FrontendError, match="no file 'm.data' beside"):
        import_onnx(folder / "m.onnx")
    (folder / "m.data").symlink_to(tmp_path / "m.data")
    with pytest.raises(FrontendError, match="outside the model's folder"):
        import_onnx(folder / "m.onnx")
    for location in ("../m.data", str(tmp_path / "m.data"), "/etc/passwd"):
        split = onnx.load(folder / "m.onnx", load_external_data=False)
        kept = next(tensor for tensor in split.graph.initializer if tensor.external_data)
        kept.external_data[0].value = location
        (folder / "n.onnx").write_bytes(split.SerializeToString())
        with pytest.raises(FrontendError, match="outside the model's folder"):
            import_onnx(folder / "n.onnx")
    (folder / "m.data").unlink()
    (folder / "m.data").write_bytes(b"short")
    with pytest.raises(FrontendError, match="which has 5"):
        import_onnx(folder / "m.onnx")


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    m = Model()
    x = m.fake("x", 0.02, np.uint8(120))
    pool = m.node("MaxPool", [layer(m, x, 4, TensorProto.INT4, (4, 3, 2, 2))], "pool",
                  kernel_shape=[2, 2], pads=[1, 0, 0, 1], ceil_mode=1)  # fmt: skip
    hidden = m.fake(pool, 0.05, np.uint8(99))
    mean = m.fake(m.node("ReduceMean", [hidden, m.constant("axes", [2, 3])], "mean", keepdims=0),
                  0.03, np.uint8(80))  # fmt: skip
    path = tmp_path_factory.mktemp("fuzz") / "m.onnx"
    return m.save(path, (1, 3, 5, 5), mean).read_bytes()


@pytest.fixture(scope="module")
def other_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Movements, tables and constants."""
    m = Model()
    x = m.fake("x", 0.02, np.uint8(120))
    scales = m.constant("scales", np.array([1, 1, 2, 2], np.float32))
    up = m.node("Resize", [x, "", scales], "up", mode="nearest")
    padded = m.node("Pad", [up, m.constant("pads", [0, 1, 1, 0, 0, 0, 0, 1])], "padded")
    parts = [m.constant(f"part{i}", v) for i, v in enumerate(([0, 1], [4, 9], [1, 2], [1, 2]))]
    part = m.node("Slice", [padded, *parts], "part")
    gate = m.node("Sigmoid", [part], "gate")
    real = m.fake(m.node("Mul", [part, gate], "silu"), 0.05, np.uint8(9))
    order = m.constant("order", [2, 0, 1, 1])
    both = m.node("Concat", [m.node("Gather", [real, order], "g", axis=1), real], "both", axis=1)
    flat = m.node(
        "Reshape", [m.fake(both, 0.05, np.uint8(9)), m.constant("shape", [1, -1])], "flat"
    )
    shifted = m.node("Add", [flat, m.weight("w", 1, 8 * 4 * 11)], "shifted")
    m.node("Softmax", [m.fake(shifted, 0.05, np.uint8(99))], "y")
    return m.save(tmp_path_factory.mktemp("fuzz") / "m.onnx", (1, 3, 4, 5), "y").read_bytes()


def test_undamaged_files_are_taken(small_file: bytes, other_file: bytes, tmp_path: Path) -> None:
    for content in (small_file, other_file):
        (tmp_path / "m.onnx").write_bytes(content)
        assert import_onnx(tmp_path / "m.onnx").nodes


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_damaged_files_raise_frontend_errors(
    small_file: bytes, other_file: bytes, data: st.DataObject
) -> None:
    content = bytearray(data.draw(st.sampled_from([small_file, other_file])))
    position = st.integers(0, len(content) - 1)
    for at in data.draw(st.lists(position, min_size=1, max_size=4)):
        content[at] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        start = data.draw(position)
        del content[start : start + data.draw(st.integers(0, 20))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.onnx")
        path.write_bytes(content)
        is_onnx(path)
        try:
            graph = import_onnx(path)
        except FrontendError:
            return
    assert graph.nodes
