# SPDX-License-Identifier: Apache-2.0
"""Homes: where tensors that are not on the chip lie in external memory, and what is copied there.

A tensor that a COPY layer makes needs no memory of its own if it is not on the chip: it is the
source's bytes, counted as pixels of its own shape and seen through the table as they are loaded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod

from bitloop.hw.isa import Window

from ..graph.ir import TensorSpec
from .external import ALIGNMENT, Block, External, allocate_scratch
from .layer import Kind, Layer, Network


@dataclass(frozen=True)
class Relay:
    """Bytes of external memory that go elsewhere in it, through the chip."""

    source: External
    target: External


@dataclass(frozen=True)
class Copy:
    """What a COPY layer does: steps left out are None or empty."""

    store: External | None
    """Where the source, on the chip, is stored first."""
    relays: tuple[Relay, ...]
    load: External | None
    """Where the target is loaded from, if it is on the chip."""


@dataclass(frozen=True)
class Homes:
    """External memory of a network."""

    tensors: dict[str, External]
    """By name, parts of external tensors too."""
    copies: dict[int, Copy]
    """By index of the COPY layer."""
    relays: dict[int, tuple[Relay, ...]]
    """Graph outputs that are part of an external tensor but lie elsewhere, by the index of the
    layer after which they are complete."""
    ports: dict[tuple[str, Window], int]
    """Byte offset of each graph input and output in its window."""
    scratch_bytes: int
    output_bytes: int


def port_offsets(specs: Iterable[TensorSpec]) -> tuple[dict[str, int], int]:
    """Byte offset of each graph input or output in its window, and the window's size."""
    offsets: dict[str, int] = {}
    position = 0
    for spec in specs:
        offsets[spec.name] = position
        position = -(-(position + prod(spec.shape)) // ALIGNMENT) * ALIGNMENT
    return offsets, position


def homes(network: Network, external: set[str]) -> Homes:
    """Homes of the roots in `external` and of all their parts."""
    blocks = _Blocks()
    _Builder(network, external, blocks).build()
    size = allocate_scratch(blocks.blocks)
    blocks.next = 0  # once more, now that offsets are known
    builder = _Builder(network, external, blocks)
    builder.build()
    _, output_bytes = port_offsets(network.tensors[n] for n in network.outputs)
    return Homes(builder.tensors, builder.copies, builder.relays, builder.ports, size, output_bytes)


@dataclass
class _Blocks:
    """Blocks of the scratch window, in the order they are asked for."""

    blocks: list[Block] = field(default_factory=list)
    next: int = 0

    def take(self, size: int, first: int, last: int) -> Block:
        if self.next == len(self.blocks):
            self.blocks.append(Block(size, first, last))
        self.next += 1
        return self.blocks[self.next - 1]


class _Builder:
    def __init__(self, network: Network, external: set[str], blocks: _Blocks) -> None:
        self.network = network
        self.external = external
        self.blocks = blocks
        self.tensors: dict[str, External] = {}
        self.copies: dict[int, Copy] = {}
        self.relays: dict[int, tuple[Relay, ...]] = {}
        self.ports: dict[tuple[str, Window], int] = {}
        for window, names in ((Window.INPUT, network.inputs), (Window.OUTPUT, network.outputs)):
            offsets, _ = port_offsets(network.tensors[n] for n in names)
            self.ports.update({(name, window): y for name, y in offsets.items()})
        self._block: dict[str, Block] = {}
        """Scratch memory of a root, its own or the one it is seen in."""

    def build(self) -> None:
        network = self.network
        writers: dict[str, list[Layer]] = {}
        for layer in network.layers:
            writers.setdefault(network.roots[layer.target], []).append(layer)
        for root in (n for n in network.tensors if n in self.external):
            if not self._seen(root, writers.get(root, [])):
                self._home(root)
        for index, layer in enumerate(network.layers):
            if layer.kind is Kind.COPY:
                self.copies[index] = self._copy(index, layer)
        for name in network.outputs:
            root = network.roots[name]
            target = self._output(name)
            if root in self.external and self.tensors[name] != target:
                index = network.last_writer(name)
                relay = Relay(self.tensors[name], target)
                self.relays[index] = (*self.relays.get(index, ()), relay)

    def _output(self, name: str) -> External:
        spec = self.network.tensors[name]
        offset, signed = self.ports[name, Window.OUTPUT], spec.source_dtype == "int8"
        return External.whole(Window.OUTPUT, offset, spec.shape, signed)

    def _seen(self, root: str, writers: list[Layer]) -> bool:
        """Whether a root is its source's bytes."""
        alone = len(writers) == 1 and writers[0].kind is Kind.COPY and writers[0].target == root
        return alone and not set(self.network.parts(root)) & set(self.network.outputs)

    def _home(self, root: str) -> None:
        network, spec = self.network, self.network.tensors[root]
        if root in network.inputs:
            signed = spec.source_dtype == "int8"
            home = External.whole(Window.INPUT, self.ports[root, Window.INPUT], spec.shape, signed)
        else:
            same = [
                n
                for n in network.outputs
                if n in network.parts(root) and (n == root or network.views[n].reshaped)
            ]
            if same:
                output = self._output(same[0])
                home = External.whole(Window.OUTPUT, output.offset, spec.shape, output.signed)
            else:
                block = self.blocks.take(prod(spec.shape), *network.lifetime(root))
                self._block[root] = block
                home = External.whole(Window.SCRATCH, block.offset, spec.shape)
        self._set(root, home)

    def _set(self, root: str, home: External) -> None:
        """A root's home, and those of its parts."""
        self.tensors[root] = home
        rest = [name for name in self.network.parts(root) if name != root]
        while rest:
            name = rest.pop(0)
            view = self.network.views[name]
            if view.of in self.tensors:
                shape = self.network.tensors[name].shape
                self.tensors[name] = self.tensors[view.of].view(view, shape)
            else:
                rest.append(name)

    def _copy(self, index: int, layer: Layer) -> Copy:
        network = self.network
        shape = network.tensors[layer.source].shape
        root, target = network.roots[layer.source], network.roots[layer.target]
        store: External | None = None
        relays: list[Relay] = []
        block = self._block.get(root)
        if root in self.external:
            source = self.tensors[layer.source]
        else:
            block = self.blocks.take(prod(shape), index, index)
            source = store = External.whole(Window.SCRATCH, block.offset, shape)
        own = network.tensors[layer.target].shape
        if own != shape and not source.contiguous:
            block = self.blocks.take(prod(shape), index, index)
            packed = External.whole(Window.SCRATCH, block.offset, shape)
            relays.append(Relay(source, packed))
            source = packed
        table = None if layer.table is None else layer.table.tobytes()
        seen = source.looked_up(table, own)
        if target not in self.external:
            return Copy(store, tuple(relays), seen)
        if target not in self.tensors:
            self._set(target, seen)
            if block is not None:
                block.last = max(block.last, network.lifetime(target)[1])
                self._block[target] = block
        else:
            relays.append(Relay(seen, self.tensors[layer.target]))
        return Copy(store, tuple(relays), None)
