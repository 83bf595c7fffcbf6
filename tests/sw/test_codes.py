# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
import torch.ao.quantization.fx._decomposed  # registers quantize_per_tensor
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bitloop.codes import decode, encode, flip_sign, from_raw, to_raw
from bitloop.errors import DataError
from bitloop.graph.ir import TensorSpec


def spec(dtype="uint8", layout="NCHW", shape=(3, 4, 5), scale=0.031, zero_point=17):
    image = {"NCHW": (*shape[1:], shape[0]), "NHWC": shape, "NC": (1, 1, shape[0])}[layout]
    return TensorSpec("x", image, scale, zero_point, dtype, shape, layout)


@given(
    arrays.arrays(np.float32, (2, 3, 4, 5), elements=st.floats(-100, 100, width=32)),
    st.floats(1e-3, 1.0),
    st.integers(0, 255),
)
def test_encode_equals_pytorch(x, scale, zero_point):
    quantize = torch.ops.quantized_decomposed.quantize_per_tensor
    expected = quantize(torch.from_numpy(x), scale, zero_point, 0, 255, torch.uint8)
    codes = encode(spec(scale=scale, zero_point=zero_point), x)
    difference = codes.astype(int) - expected.numpy().transpose(0, 2, 3, 1).astype(int)
    assert not difference.any()


def test_decode_undoes_encode_within_half_a_step():
    s = spec()
    x = np.random.default_rng(0).uniform(-0.5, 7, (2, 3, 4, 5)).astype(np.float32)
    assert np.abs(decode(s, encode(s, x)) - x).max() <= s.scale / 2 * 1.001


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize(
    ("layout", "shape"), [("NCHW", (3, 4, 5)), ("NHWC", (4, 5, 3)), ("NC", (7,))]
)
def test_raw_codes_come_back_in_their_dtype_and_layout(dtype, layout, shape):
    s = spec(dtype, layout, shape)
    info = np.iinfo(dtype)
    raw = np.random.default_rng(1).integers(info.min, info.max + 1, (2, *shape)).astype(dtype)
    memory = from_raw(s, raw)
    assert memory.dtype == np.uint8 and memory.shape == (2, *s.shape)
    assert (to_raw(s, memory) == raw).all()
    unsigned = flip_sign(s, memory)
    offset = 128 if dtype == "int8" else 0
    first = (0,) * len(shape)
    assert int(unsigned[(0, 0, 0, 0)]) == int(raw[(0, *first)]) + offset


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((2, 3, 4, 6), np.float32), "expected shape"),
        (np.zeros((3, 4, 5), np.float32), "expected shape"),
        (np.zeros((0, 3, 4, 5), np.float32), "empty"),
        (np.full((1, 3, 4, 5), np.nan, np.float32), "finite"),
        (np.zeros((1, 3, 4, 5), np.uint8), "floats"),
    ],
)
def test_wrong_inputs_are_refused(array, reason):
    with pytest.raises(DataError, match=reason):
        encode(spec(), array)


def test_raw_codes_of_another_type_are_refused():
    with pytest.raises(DataError, match="int8, not uint8"):
        from_raw(spec("int8"), np.zeros((1, 3, 4, 5), np.uint8))
