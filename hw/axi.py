# SPDX-License-Identifier: Apache-2.0
"""Signatures of the core's AXI ports, and how they become plain ports of the top.

An interface inside the design is a `wiring` member with one signal a wire (`axi.araddr`). Nested
members join with `__` in Verilog, so the top declares `flat_ports("m_axi", ...)` instead and joins
them to the interface inside with `connect_flat`: the ports are then called `m_axi_araddr`.
"""

from __future__ import annotations

from amaranth.hdl import Module, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Member, Out

from .isa import Window
from .registers import ADDRESS_BITS as REGISTER_ADDRESS_BITS

BUS_ADDRESS_BITS = 32
BURST_BEATS = 32
"""Longest burst. Bursts end where a block of this many beats does, so none crosses 4 KiB."""

BURST_INCR = 1
CACHE_NORMAL_BUFFERABLE = 0b0011

WINDOW_LAYOUT = data.StructLayout({"base": 32, "size": 32})
"""A memory window: bus address (the low four bits are taken as 0) and bytes."""
WINDOWS_LAYOUT = data.ArrayLayout(WINDOW_LAYOUT, len(Window))
ERROR_LAYOUT = data.StructLayout({"valid": 1, "code": 3})
"""Sticky error of a unit until its reset: an `ErrorCode`."""

REQUEST_LAYOUT = data.StructLayout({"window": 2, "offset": 32, "bytes": 27, "final": 1})
"""A run of `bytes` (at least 1) bytes from byte `offset` of a window, any alignment. `final`
makes the write engine report the run's last response; reads ignore it."""


def axi_read_signature(data_bits: int) -> wiring.Signature:
    """AXI4 master, read channels, 1-bit ids."""
    return wiring.Signature(
        {
            "arid": Out(1),
            "araddr": Out(BUS_ADDRESS_BITS),
            "arlen": Out(8),
            "arsize": Out(3),
            "arburst": Out(2),
            "arlock": Out(1),
            "arcache": Out(4),
            "arprot": Out(3),
            "arvalid": Out(1),
            "arready": In(1),
            "rid": In(1),
            "rdata": In(data_bits),
            "rresp": In(2),
            "rlast": In(1),
            "rvalid": In(1),
            "rready": Out(1),
        }
    )


def axi_write_signature(data_bits: int) -> wiring.Signature:
    """AXI4 master, write channels, 1-bit ids."""
    return wiring.Signature(
        {
            "awid": Out(1),
            "awaddr": Out(BUS_ADDRESS_BITS),
            "awlen": Out(8),
            "awsize": Out(3),
            "awburst": Out(2),
            "awlock": Out(1),
            "awcache": Out(4),
            "awprot": Out(3),
            "awvalid": Out(1),
            "awready": In(1),
            "wdata": Out(data_bits),
            "wstrb": Out(data_bits // 8),
            "wlast": Out(1),
            "wvalid": Out(1),
            "wready": In(1),
            "bid": In(1),
            "bresp": In(2),
            "bvalid": In(1),
            "bready": Out(1),
        }
    )


def axi_lite_signature() -> wiring.Signature:
    """AXI4-Lite as the master sees it, 12-bit addresses, 32-bit data; the slave has `In` of it."""
    return wiring.Signature(
        {
            "awaddr": Out(REGISTER_ADDRESS_BITS),
            "awprot": Out(3),
            "awvalid": Out(1),
            "awready": In(1),
            "wdata": Out(32),
            "wstrb": Out(4),
            "wvalid": Out(1),
            "wready": In(1),
            "bresp": In(2),
            "bvalid": In(1),
            "bready": Out(1),
            "araddr": Out(REGISTER_ADDRESS_BITS),
            "arprot": Out(3),
            "arvalid": Out(1),
            "arready": In(1),
            "rdata": In(32),
            "rresp": In(2),
            "rvalid": In(1),
            "rready": Out(1),
        }
    )


def beat_layout(data_bits: int) -> data.StructLayout:
    """A write beat: data and which bytes of it are written."""
    return data.StructLayout({"data": unsigned(data_bits), "strobe": unsigned(data_bits // 8)})


def flat_ports(
    prefix: str, signature: wiring.Signature, *, flip: bool = False
) -> dict[str, Member]:
    """Members `{prefix}_{wire}` for a component's signature; `flip` for the slave's side."""
    source = signature.flip() if flip else signature
    return {f"{prefix}_{name}": member for name, member in source.members.items()}


def connect_flat(m: Module, top: wiring.Component, prefix: str, interface: object) -> None:
    """Join the flat ports of `top` to the same-sided interface of a component inside it: what the
    component drives, the port shows."""
    for name, member in interface.signature.members.items():  # type: ignore[attr-defined]
        inner, outer = getattr(interface, name), getattr(top, f"{prefix}_{name}")
        if member.flow == Out:
            m.d.comb += outer.eq(inner)
        else:
            m.d.comb += inner.eq(outer)


def drive_address_constants(m: Module, axi: object, channel: str, data_bits: int) -> None:
    """Drive what is the same for every burst of address channel `ar` or `aw`."""
    m.d.comb += [
        getattr(axi, f"{channel}id").eq(0),
        getattr(axi, f"{channel}size").eq((data_bits // 8).bit_length() - 1),
        getattr(axi, f"{channel}burst").eq(BURST_INCR),
        getattr(axi, f"{channel}lock").eq(0),
        getattr(axi, f"{channel}cache").eq(CACHE_NORMAL_BUFFERABLE),
        getattr(axi, f"{channel}prot").eq(0),
    ]
