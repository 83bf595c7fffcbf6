# SPDX-License-Identifier: Apache-2.0
import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitloop.binary import ALIGNMENT, Binary, CopyInfo, Span
from bitloop.compile import compile_graph
from bitloop.errors import BinaryError
from bitloop.hw.config import preset
from bitloop.hw.isa import LINE_BYTES, Opcode, encode_instruction
from bitloop.sim.random_graphs import random_graph


@pytest.fixture(scope="module")
def binary():
    return compile_graph(random_graph(1, 4, "fused-add", 8), preset("n4"))


def test_file_holds_everything(binary, tmp_path):
    path = tmp_path / "net.bitloop"
    binary.save(path)
    loaded = Binary.load(path)
    assert loaded.to_bytes() == binary.to_bytes()
    assert loaded.image() == binary.image()
    for field in ("config", "inputs", "outputs", "layers", "placements", "setup", "inference"):
        assert getattr(loaded, field) == getattr(binary, field)


def test_file_is_safetensors(binary, tmp_path):
    from safetensors import safe_open

    path = tmp_path / "net.bitloop"
    binary.save(path)
    with safe_open(path, "numpy") as file:
        assert set(file.keys()) == {"instructions", "steps", "weights", "parameters"}
        assert file.metadata()["format"] == "bitloop-binary"
        np.testing.assert_array_equal(file.get_tensor("weights"), binary.weights)


def test_image_places_sections(binary):
    image = np.frombuffer(binary.image(), np.uint8)
    for name, offset in binary.offsets.items():
        section = getattr(binary, name)
        np.testing.assert_array_equal(image[offset : offset + section.size], section)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_is_refused(binary, data):
    raw = bytearray(binary.to_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(BinaryError):
        Binary.from_bytes(bytes(raw))


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_truncated_or_longer_file_is_refused(binary, data):
    raw = binary.to_bytes()
    with pytest.raises(BinaryError, match="file.bitloop"):
        Binary.from_bytes(raw[: data.draw(st.integers(0, len(raw) - 1))], "file.bitloop")
    with pytest.raises(BinaryError):
        Binary.from_bytes(raw + data.draw(st.binary(min_size=1, max_size=9)))


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200))
def test_junk_is_refused(raw):
    with pytest.raises(BinaryError):
        Binary.from_bytes(raw)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(BinaryError, match="none.bitloop"):
        Binary.load(tmp_path / "none.bitloop")


def test_other_core_is_refused(binary):
    binary.check_config(preset("n4"))
    for other in (preset("n8"), preset("n4").replace(step_entries=256)):
        with pytest.raises(BinaryError, match="compile it again"):
            binary.check_config(other)


def _with_program(binary, program):
    """The binary with another inference program, sealed again as if it were right."""
    halt = encode_instruction(Opcode.HALT)
    code = halt.ljust(ALIGNMENT, b"\0") + program
    return dataclasses.replace(
        binary,
        instructions=np.frombuffer(code, np.uint8),
        setup=Span(0, 1),
        inference=Span(ALIGNMENT, len(program) // LINE_BYTES),
        offsets={
            name: offset + (4096 if name != "instructions" else 0)
            for name, offset in binary.offsets.items()
        },
    )


@pytest.mark.parametrize(
    ("opcode", "fields", "message"),
    [
        (Opcode.LOAD_WEIGHTS, {"offset": 0, "count": 4000, "destination": 200}, "at most 1024"),
        (Opcode.LOAD_WEIGHTS, {"offset": 32, "count": 1}, "64-aligned"),
        (Opcode.LOAD_WEIGHTS, {"offset": 1 << 20, "count": 1}, "program window"),
        (Opcode.LOAD_STEPS, {"offset": 0, "count": 1}, "inside the steps"),
        (Opcode.LOAD_PARAMETERS, {"offset": 0, "count": 0}, "at least 1"),
        (Opcode.COMPUTE, {"step_count": 1, "groups": 0, "output_height": 1}, "groups"),
        (Opcode.STORE_ACTIVATIONS, {"window": 2, "segments": 1, "segment_bytes": 4}, "length"),
        (Opcode.STORE_ACTIVATIONS, {"window": 1, "offset": 1 << 31}, "window"),
    ],
)
def test_program_out_of_range_is_refused(binary, opcode, fields, message):
    raw = encode_instruction(opcode, **fields) + encode_instruction(Opcode.HALT)
    with pytest.raises(BinaryError, match=message):
        Binary.from_bytes(_with_program(binary, raw).to_bytes())


@pytest.mark.parametrize(
    "change",
    [
        {"inference": Span(0, 1 << 20)},
        {"inference": Span(32, 1)},
        {"input_bytes": 0},
        {"layers": ()},
        {"copies": (CopyInfo("reshape", "reshape", 99),)},
        {"copies": (CopyInfo("reshape", "reshape", None),)},
        {"copies": (CopyInfo(5, "reshape", 0),)},
    ],
)
def test_inconsistent_metadata_is_refused(binary, change):
    with pytest.raises(BinaryError):
        Binary.from_bytes(dataclasses.replace(binary, **change).to_bytes())


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("layers", {"name": 5}),
        ("layers", {"op": ["conv"]}),
        ("layers", {"weight_bits": 3}),
        ("layers", {"weight_bits": "8"}),
        ("layers", {"macs": -1}),
        ("layers", {"macs": {}}),
        ("placements", {"tensor": None}),
        ("placements", {"words": "4"}),
        ("placements", {"last_layer": 1.5}),
    ],
)
def test_what_tables_cannot_show_is_refused(binary, field, changes):
    first, *others = getattr(binary, field)
    changed = (dataclasses.replace(first, **changes), *others)
    with pytest.raises(BinaryError):
        Binary.from_bytes(dataclasses.replace(binary, **{field: changed}).to_bytes())


def test_copies_are_kept_and_a_binary_without_any_says_nothing_of_them(binary):
    assert not binary.copies and b"copies" not in binary.to_bytes()
    copies = (CopyInfo("a", "table", 0), CopyInfo("b", "reshape", len(binary.layers)))
    raw = dataclasses.replace(binary, copies=copies).to_bytes()
    assert Binary.from_bytes(raw).copies == copies


def test_program_without_halt_is_refused(binary):
    raw = encode_instruction(Opcode.STORE_ACTIVATIONS, window=2)
    with pytest.raises(BinaryError, match="HALT"):
        Binary.from_bytes(_with_program(binary, raw).to_bytes())
