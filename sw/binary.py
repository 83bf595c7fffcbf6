# SPDX-License-Identifier: Apache-2.0
"""The accelerator binary: what the compiler writes and every device loads.

A safetensors file with four byte tensors (`instructions`, `steps`, `weights`, `parameters`) and
metadata that says where they lie in the program window, which core they are for, and what goes in
and comes out. The file is canonical: one `Binary` has exactly one byte form, so a flipped bit
anywhere is noticed, and it is covered by a SHA-256 besides.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitloop.hw.config import ConfigError, CoreConfig
from bitloop.hw.isa import LINE_BYTES, STEP, Opcode, decode_program

from .errors import BinaryError
from .files import replacing
from .graph.ir import HostOperator, TensorSpec

FORMAT = "bitloop-binary"
FORMAT_VERSION = 2
SECTIONS = ("instructions", "steps", "weights", "parameters")
ZIP = b"PK\x03\x04"
ALIGNMENT = 64
"""Byte alignment of programs and of everything a LOAD instruction reads from the program window."""

STEP_BYTES = STEP.bits // 8


@dataclass(frozen=True)
class Port:
    """A graph input or output and where it lies in its memory window."""

    spec: TensorSpec
    offset: int
    """Byte offset in the input or output window; the tensor is height * width * channels bytes."""

    @property
    def size(self) -> int:
        """Bytes of one image."""
        height, width, channels = self.spec.shape
        return height * width * channels


WEIGHTED_OPERATORS = ("conv", "depthwise", "linear")


@dataclass(frozen=True)
class LayerInfo:
    """What reports say about a layer; its last COMPUTE carries a mark."""

    name: str
    op: str
    """`conv`, `depthwise`, `linear`, `maxpool`, `avgpool` or `add`; `+add` when one is fused."""
    weight_bits: int
    """Width the weights are multiplied in: 8, 4 or 2."""
    macs: int
    """Multiply-accumulates of one image, padded taps counted; 0 where nothing is multiplied."""

    @property
    def network_weight_bits(self) -> int | None:
        """`weight_bits`, None for a layer whose weights are not the network's: pooling, adding."""
        return self.weight_bits if self.op.split("+")[0] in WEIGHTED_OPERATORS else None


@dataclass(frozen=True)
class CopyInfo:
    """What reports say about bytes that only move, through external memory: no COMPUTE is theirs,
    so their cycles are part of a layer's."""

    name: str
    op: str
    """`reshape`, or `table` where each byte is replaced as well."""
    before: int
    """Index of the layer they come before; 0: head has their cycles, the number of layers: tail."""


@dataclass(frozen=True)
class Span:
    """A program: where its first line lies in the program window and how many lines it has."""

    offset: int
    lines: int


@dataclass(frozen=True)
class Placement:
    """Where a tensor lies in the activation RAM, for people to read."""

    tensor: str
    base: int
    """First word."""
    row_step: int
    """Words from row to row."""
    words: int
    first_layer: int
    """Index of the layer that produces it, -1 for an input."""
    last_layer: int
    """Index of the last layer that reads it."""


@dataclass(frozen=True, eq=False)
class Binary:
    """A compiled network. All byte arrays are one-dimensional uint8."""

    name: str
    config: CoreConfig
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    layers: tuple[LayerInfo, ...]
    placements: tuple[Placement, ...]
    setup: Span
    """Run once after loading: fetches what stays on the chip."""
    inference: Span
    """Run for each image."""
    input_bytes: int
    """Size of the input window."""
    output_bytes: int
    """Size of the output window."""
    scratch_bytes: int
    """Size of the scratch window, 0 where none is needed."""
    offsets: dict[str, int]
    """Byte offset of each section in the program window."""
    instructions: NDArray[np.uint8]
    steps: NDArray[np.uint8]
    weights: NDArray[np.uint8]
    parameters: NDArray[np.uint8]
    host: tuple[HostOperator, ...] = ()
    """What the host computes from the outputs' real values."""
    copies: tuple[CopyInfo, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the core this was made for."""
        return self.config.fingerprint

    @property
    def input_specs(self) -> tuple[TensorSpec, ...]:
        """The graph's inputs, in order."""
        return tuple(port.spec for port in self.inputs)

    @property
    def output_specs(self) -> tuple[TensorSpec, ...]:
        """The graph's outputs, in order."""
        return tuple(port.spec for port in self.outputs)

    @property
    def program_bytes(self) -> int:
        """Size of the program window."""
        return max(self.offsets[name] + getattr(self, name).size for name in SECTIONS)

    def image(self) -> bytes:
        """Contents of the program window."""
        image = np.zeros(self.program_bytes, np.uint8)
        for name in SECTIONS:
            section = getattr(self, name)
            image[self.offsets[name] : self.offsets[name] + section.size] = section
        return image.tobytes()

    def program(self, span: Span) -> list[tuple[Opcode, dict[str, int]]]:
        """Decoded instructions of `setup` or `inference`."""
        start = span.offset - self.offsets["instructions"]
        return decode_program(self.instructions[start : start + span.lines * LINE_BYTES].tobytes())

    def check_config(self, config: CoreConfig) -> None:
        """Raises `BinaryError` unless this was made for a core like `config`."""
        if config.fingerprint != self.fingerprint:
            raise BinaryError(
                f"{self.name}: compiled for core {self.config.name} ({self.fingerprint}), not for "
                f"{config.name} ({config.fingerprint}); compile it again for this core"
            )

    def to_bytes(self) -> bytes:
        """The file's bytes, always the same for the same contents."""
        metadata = _metadata(self)
        metadata["sha256"] = _digest(self, metadata)
        return _serialize(self, metadata)

    def save(self, path: str | Path) -> None:
        """Write the file; an existing one is replaced only once the new one is complete."""
        with replacing(Path(path)) as temporary:
            temporary.write_bytes(self.to_bytes())

    @staticmethod
    def load(path: str | Path) -> Binary:
        """Read and check a file. Raises `BinaryError` naming file, field, rule and value."""
        path = Path(path)
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise BinaryError(f"{path}: cannot be read: {error.strerror}") from None
        return Binary.from_bytes(raw, str(path))

    @staticmethod
    def from_bytes(raw: bytes, source: str = "binary") -> Binary:
        """Check and decode a file's bytes; `source` names them in messages."""
        try:
            return _parse(raw)
        except BinaryError as error:
            raise BinaryError(f"{source}: {error}; compile the model again") from None


def _metadata(binary: Binary) -> dict[str, str]:
    network = {
        "name": binary.name,
        "inputs": [dataclasses.asdict(port) for port in binary.inputs],
        "outputs": [dataclasses.asdict(port) for port in binary.outputs],
        "layers": [dataclasses.asdict(layer) for layer in binary.layers],
        "placements": [dataclasses.asdict(placement) for placement in binary.placements],
        "setup": dataclasses.asdict(binary.setup),
        "inference": dataclasses.asdict(binary.inference),
        "input_bytes": binary.input_bytes,
        "output_bytes": binary.output_bytes,
        "scratch_bytes": binary.scratch_bytes,
        "offsets": binary.offsets,
        "host": [dataclasses.asdict(operator) for operator in binary.host],
    }
    if binary.copies:
        network["copies"] = [dataclasses.asdict(copy) for copy in binary.copies]
    return {
        "format": FORMAT,
        "version": str(FORMAT_VERSION),
        "config": _canonical(dataclasses.asdict(binary.config)),
        "fingerprint": binary.fingerprint,
        "network": _canonical(network),
        "sha256": "",
    }


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _digest(binary: Binary, metadata: dict[str, str]) -> str:
    digest = hashlib.sha256(_canonical({**metadata, "sha256": ""}).encode())
    for name in SECTIONS:
        section = getattr(binary, name)
        digest.update(f"{name}:{section.size}:".encode())
        digest.update(section.tobytes())
    return digest.hexdigest()


def _serialize(binary: Binary, metadata: dict[str, str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": metadata}
    position = 0
    for name in SECTIONS:
        size = getattr(binary, name).size
        header[name] = {
            "dtype": "U8",
            "shape": [size],
            "data_offsets": [position, position + size],
        }
        position += size
    text = _canonical(header).encode()
    text += b" " * (-len(text) % 8)
    sections = (getattr(binary, name).tobytes() for name in SECTIONS)
    return b"".join((len(text).to_bytes(8, "little"), text, *sections))


def need(ok: bool, field: str, rule: str, value: object) -> None:
    """Raises `BinaryError` naming field, rule and value unless `ok`."""
    if not ok:
        raise BinaryError(f"{field} must be {rule}, not {value!r}")


def _parse(raw: bytes) -> Binary:
    if len(raw) < 8:
        raise BinaryError(f"truncated: {len(raw)} bytes, a header alone is longer")
    if raw.startswith(ZIP):
        raise BinaryError("not an accelerator binary but a zip archive, as .pt2 models are")
    size = int.from_bytes(raw[:8], "little")
    if size > len(raw) - 8:
        raise BinaryError(f"truncated or not a binary: header of {size} bytes in {len(raw)}")
    try:
        header = json.loads(raw[8 : 8 + size].decode())
        metadata = dict(header["__metadata__"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BinaryError("header is not a safetensors header with metadata") from None
    need(metadata.get("format") == FORMAT, "format", repr(FORMAT), metadata.get("format"))
    version = metadata.get("version")
    need(version == str(FORMAT_VERSION), "version", repr(str(FORMAT_VERSION)), version)
    body = raw[8 + size :]
    sections: dict[str, NDArray[np.uint8]] = {}
    position = 0
    for name in SECTIONS:
        entry = header.get(name)
        try:
            start, stop = (int(v) for v in entry["data_offsets"])
            plain = entry["dtype"] == "U8" and entry["shape"] == [stop - start]
        except (KeyError, TypeError, ValueError):
            raise BinaryError(f"tensor {name} is missing or malformed") from None
        need(plain and start == position <= stop, f"tensor {name}", "packed bytes", entry)
        if stop > len(body):
            raise BinaryError(f"truncated: tensor {name} ends at {stop} of {len(body)} bytes")
        sections[name] = np.frombuffer(body, np.uint8, stop - start, start)
        position = stop
    need(position == len(body), "file length", f"{8 + size + position}", len(raw))
    try:
        binary = _from_metadata(metadata, sections)
    except ConfigError as error:
        raise BinaryError(f"config: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise BinaryError(f"metadata cannot be read: {error}") from None
    want, got = _digest(binary, metadata), metadata.get("sha256")
    if got != want:
        raise BinaryError(f"sha256 differs (stored {got!r}, computed {want}): the file is damaged")
    if binary.fingerprint != metadata.get("fingerprint"):
        raise BinaryError(
            f"fingerprint {metadata.get('fingerprint')!r} is not that of this config under the "
            f"present instruction set ({binary.fingerprint})"
        )
    if binary.to_bytes() != raw:
        raise BinaryError("header is not in canonical form: the file was altered")
    from .binary_check import check  # it needs the classes above

    check(binary)
    return binary


def _from_metadata(metadata: dict[str, str], sections: dict[str, NDArray[np.uint8]]) -> Binary:
    network = json.loads(metadata["network"])
    return Binary(
        name=network["name"],
        config=CoreConfig(**json.loads(metadata["config"])),
        inputs=tuple(_port(p) for p in network["inputs"]),
        outputs=tuple(_port(p) for p in network["outputs"]),
        layers=tuple(LayerInfo(**layer) for layer in network["layers"]),
        placements=tuple(Placement(**placement) for placement in network["placements"]),
        setup=Span(**network["setup"]),
        inference=Span(**network["inference"]),
        input_bytes=network["input_bytes"],
        output_bytes=network["output_bytes"],
        scratch_bytes=network["scratch_bytes"],
        offsets=network["offsets"],
        host=tuple(HostOperator(**operator) for operator in network["host"]),
        copies=tuple(CopyInfo(**copy) for copy in network.get("copies", ())),
        **sections,
    )


def _port(value: dict[str, Any]) -> Port:
    spec = dict(value["spec"])
    spec["shape"] = tuple(spec["shape"])
    spec["source_shape"] = tuple(spec["source_shape"])
    return Port(TensorSpec(**spec), value["offset"])
