# SPDX-License-Identifier: Apache-2.0
"""SDRAM controller behind an AXI4 slave port.

Rows stay open until another row of their bank is wanted or a refresh is due, so consecutive bursts
cost little beyond their data. Bus addresses become row, bank, column from the top: the bank changes
before the row does.
"""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from bitloop.hw.axi import axi_read_signature, axi_write_signature
from bitloop.hw.fifo import Fifo

from .sdram_chip import BANKS, SdramChip
from .sdram_timing import READ_BUFFER, controller_timing

RESPONSE_OKAY, RESPONSE_DECODE_ERROR = 0, 3
REFRESH_SLACK = 64
"""Cycles by which a refresh can come later than it is due: the longest way to a point where one can
be issued, from opening a row to the end of write recovery."""


def sdram_signature(chip: SdramChip) -> wiring.Signature:
    """Pins of the memory as the controller drives them, physical levels; the clock is apart."""
    return wiring.Signature(
        {
            "cke": Out(1),
            "cs_n": Out(1, init=1),
            "ras_n": Out(1, init=1),
            "cas_n": Out(1, init=1),
            "we_n": Out(1, init=1),
            "ba": Out(2),
            "a": Out(chip.address_bits),
            "dqm": Out(chip.data_bits // 8),
            "dq_o": Out(chip.data_bits),
            "dq_oe": Out(1),
            "dq_i": In(chip.data_bits),
        }
    )


class SdramController(wiring.Component):
    """AXI4 slave of a memory of `chip.size` bytes at address 0, 32-bit data.

    Takes full-width INCR bursts of up to 256 beats, answers in order of acceptance with the id of
    the address, one burst at a time, reads and writes in turn. A burst outside the memory is
    answered DECERR; one that runs past its end wraps. Refreshes come between beats.

    Registers at the pads are expected on both sides: the memory's edge takes a command in the
    second cycle after it is on `pins`, and `pins.dq_i` has a read's first data `cas_latency + 2`
    cycles after its command.

    Members
    -------
    read, write : AXI4 slave, read and write channels
    pins : `sdram_signature`, out
    ready : out, the memory is initialized
    """

    def __init__(self, chip: SdramChip, megahertz: float) -> None:
        if chip.data_bits not in (16, 32):
            raise ValueError(f"SdramController: {chip.name} must be 16 or 32 bits wide")
        self.chip = chip
        self.megahertz = megahertz
        super().__init__(
            {
                "read": In(axi_read_signature(32)),
                "write": In(axi_write_signature(32)),
                "pins": Out(sdram_signature(chip)),
                "ready": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        chip, pins = self.chip, self.pins

        def cycles(nanoseconds: float) -> int:
            return chip.cycles(nanoseconds, self.megahertz)

        timing = controller_timing(chip, self.megahertz)
        t_rp, t_rfc, t_ras = timing.precharge, timing.refresh, timing.active
        t_wr, t_open = timing.write_recovery, timing.activate
        parts = timing.words_per_beat  # also the burst length

        # ---- commands, one cycle on the pins, then NOP --------------------------------------
        m.d.sync += [
            pins.cs_n.eq(0),
            pins.ras_n.eq(1),
            pins.cas_n.eq(1),
            pins.we_n.eq(1),
            pins.cke.eq(1),
        ]

        def command(*, ras: int = 0, cas: int = 0, we: int = 0) -> list:
            return [pins.ras_n.eq(not ras), pins.cas_n.eq(not cas), pins.we_n.eq(not we)]

        # ---- timers: a flag each says that they have run out --------------------------------
        delay = Signal(range(max(t_rfc, t_rp, t_open, cycles(chip.t_mrd)) + 1))
        free = Signal()  # the next command may go
        m.d.comb += free.eq(delay == 0)
        with m.If(~free):
            m.d.sync += delay.eq(delay - 1)

        closing = Signal(range(max(t_ras, t_wr + parts) + 1))  # cycles until PRECHARGE may go
        may_close = Signal()
        m.d.comb += may_close.eq(closing == 0)
        with m.If(~may_close):
            m.d.sync += closing.eq(closing - 1)

        interval = timing.refresh_interval
        until_refresh = Signal(range(interval), init=interval - REFRESH_SLACK)
        refresh_due = Signal()
        with m.If(until_refresh == 0):
            m.d.sync += [until_refresh.eq(interval - 1), refresh_due.eq(self.ready)]
        with m.Else():
            m.d.sync += until_refresh.eq(until_refresh - 1)

        # ---- the burst ----------------------------------------------------------------------
        part_log2 = parts - 1  # log2 of 1 or 2
        column_beats_log2 = timing.column_bits
        address_log2 = column_beats_log2 + 2 + chip.row_bits  # in beats
        address = Signal(
            data.StructLayout({"column": column_beats_log2, "bank": 2, "row": chip.row_bits})
        )
        left = Signal(8)  # beats after this one
        last = Signal()
        writing = Signal()
        active = Signal()
        outside = Signal()
        identity = Signal(1)
        m.d.comb += last.eq(left == 0)
        end_of_row = Signal()
        m.d.comb += end_of_row.eq(address.column.all())

        rows = Array(Signal(chip.row_bits, name=f"row{i}", reset_less=True) for i in range(BANKS))
        is_open = Signal(BANKS)
        open_row = Signal(chip.row_bits, reset_less=True)
        bank_open = Signal()

        # ---- write data and responses -------------------------------------------------------
        m.submodules.write_data = write_data = Fifo(36, 4)
        m.submodules.responses = responses = Fifo(3, 4)
        axi = self.write
        m.d.comb += [
            write_data.sink.valid.eq(axi.wvalid),
            write_data.sink.payload.eq(Cat(axi.wdata, axi.wstrb)),
            axi.wready.eq(write_data.sink.ready),
            axi.bvalid.eq(responses.source.valid),
            Cat(axi.bid, axi.bresp).eq(responses.source.payload),
            responses.source.ready.eq(axi.bready),
            responses.sink.payload.eq(
                Cat(identity, Mux(outside, RESPONSE_DECODE_ERROR, RESPONSE_OKAY))
            ),
        ]
        word, strobes = write_data.source.payload[:32], write_data.source.payload[32:]
        rest = Signal(chip.data_bits)  # the upper half of a beat, to be written next
        rest_mask = Signal(chip.data_bits // 8)
        rest_next = Signal()
        m.d.sync += [pins.dq_oe.eq(0), pins.dqm.eq(0), rest_next.eq(0)]
        if parts == 2:
            with m.If(rest_next):
                m.d.sync += [pins.dq_oe.eq(1), pins.dq_o.eq(rest), pins.dqm.eq(rest_mask)]

        # ---- read data: what was asked for comes back at a fixed time -----------------------
        read = self.read
        asked = Signal(data.StructLayout({"valid": 1, "last": 1, "id": 1, "outside": 1}))
        m.d.sync += asked.valid.eq(0)
        stage = asked
        in_flight = [asked.valid]
        for i in range(timing.read_stages - 1):
            following = Signal.like(asked, name=f"asked{i}")
            m.d.sync += following.eq(stage)
            in_flight.append(following.valid)
            stage = following
        taken = Signal(chip.data_bits * parts)
        m.d.comb += taken[-chip.data_bits :].eq(pins.dq_i)
        if parts == 2:
            m.d.sync += taken[: chip.data_bits].eq(pins.dq_i)
        m.submodules.read_data = read_data = Fifo(36, READ_BUFFER)
        arrived = Signal(36)
        arriving = Signal()
        m.d.sync += [
            arriving.eq(stage.valid),
            arrived.eq(
                Cat(
                    taken,
                    stage.last,
                    stage.id,
                    Mux(stage.outside, RESPONSE_DECODE_ERROR, RESPONSE_OKAY),
                )
            ),
        ]
        room = Signal(range(READ_BUFFER + 1), init=READ_BUFFER)
        has_room = Signal(init=1)
        pop = Signal()
        ask = Signal()
        m.d.comb += [
            read_data.sink.valid.eq(arriving),  # there is room: it was counted
            read_data.sink.payload.eq(arrived),
            read.rvalid.eq(read_data.source.valid),
            Cat(read.rdata, read.rlast, read.rid, read.rresp).eq(read_data.source.payload),
            read_data.source.ready.eq(read.rready),
            pop.eq(read.rvalid & read.rready),
        ]
        with m.If(ask & ~pop):
            m.d.sync += [room.eq(room - 1), has_room.eq(room != 1)]
        with m.Elif(pop & ~ask):
            m.d.sync += [room.eq(room + 1), has_room.eq(1)]
        reading = Signal()
        m.d.sync += reading.eq(Cat(in_flight).any() | ask)

        # ---- addresses, taken ahead ---------------------------------------------------------
        waiting = {}
        for name, bus, channel in (("ar", read, "ar"), ("aw", axi, "aw")):
            held = Signal(
                data.StructLayout({"address": 32, "length": 8, "id": 1}), name=f"{name}_held"
            )
            valid = Signal(name=f"{name}_waiting")
            take = Signal(name=f"{name}_take")
            m.d.comb += getattr(bus, f"{channel}ready").eq(~valid)
            with m.If(take):
                m.d.sync += valid.eq(0)
            with m.If(getattr(bus, f"{channel}valid") & ~valid):
                m.d.sync += [
                    valid.eq(1),
                    held.address.eq(getattr(bus, f"{channel}addr")),
                    held.length.eq(getattr(bus, f"{channel}len")),
                    held.id.eq(getattr(bus, f"{channel}id")),
                ]
            waiting[name] = (held, valid, take)
        (read_held, read_waiting, read_take) = waiting["ar"]
        (write_held, write_waiting, write_take) = waiting["aw"]

        def start(held: Signal, is_write: int) -> list:
            return [
                address.eq(held.address[2 : 2 + address_log2]),
                outside.eq(held.address[2 + address_log2 :].any()),
                left.eq(held.length),
                identity.eq(held.id),
                writing.eq(is_write),
                active.eq(1),
            ]

        def next_beat() -> None:
            m.d.sync += [
                Cat(address.column, address.bank, address.row).eq(
                    Cat(address.column, address.bank, address.row) + 1
                ),
                left.eq(left - 1),
            ]

        counter = Signal(range(max(cycles(chip.power_up), chip.power_up_refreshes) + 1))
        mode = part_log2 | chip.cas_latency << 4  # burst length 1 or 2, sequential

        with m.FSM():
            with m.State("POWER UP"):
                m.d.sync += [counter.eq(counter + 1), pins.cs_n.eq(1)]
                with m.If(counter == cycles(chip.power_up)):
                    m.d.sync += counter.eq(chip.power_up_refreshes)
                    m.next = "CLOSE ALL"
            with m.State("CLOSE ALL"):
                with m.If(free & may_close & ~reading):
                    m.d.sync += [*command(ras=1, we=1), pins.a.eq(1 << 10), is_open.eq(0)]
                    m.d.sync += delay.eq(t_rp - 1)
                    m.next = "REFRESH"
            with m.State("REFRESH"):
                with m.If(free):
                    m.d.sync += [*command(ras=1, cas=1), delay.eq(t_rfc - 1), refresh_due.eq(0)]
                    with m.If(self.ready):
                        m.next = "RESUME"
                    with m.Else():
                        m.d.sync += counter.eq(counter - 1)
                        with m.If(counter == 1):
                            m.next = "SET MODE"
            with m.State("SET MODE"):
                with m.If(free):
                    m.d.sync += [*command(ras=1, cas=1, we=1), pins.a.eq(mode), pins.ba.eq(0)]
                    m.d.sync += [delay.eq(cycles(chip.t_mrd) - 1), self.ready.eq(1)]
                    m.next = "RESUME"
            with m.State("RESUME"):
                with m.If(active):
                    m.next = "LOOK UP"
                with m.Else():
                    m.next = "IDLE"
            with m.State("IDLE"):
                with m.If(refresh_due):
                    m.next = "CLOSE ALL"
                with m.Elif(read_waiting & (writing | ~write_waiting)):
                    m.d.comb += read_take.eq(1)
                    m.d.sync += start(read_held, 0)
                    m.next = "LOOK UP"
                with m.Elif(write_waiting & responses.sink.ready):
                    m.d.comb += write_take.eq(1)
                    m.d.sync += start(write_held, 1)
                    m.next = "LOOK UP"
            with m.State("LOOK UP"):
                m.d.sync += [
                    open_row.eq(rows[address.bank]),
                    bank_open.eq(is_open.bit_select(address.bank, 1)),
                ]
                m.next = "DECIDE"
            with m.State("DECIDE"):
                with m.If(outside | (bank_open & (open_row == address.row))):
                    with m.If(writing):
                        m.next = "WRITE"
                    with m.Else():
                        m.next = "READ"
                with m.Elif(bank_open):
                    m.next = "CLOSE"
                with m.Else():
                    m.next = "OPEN"
            with m.State("CLOSE"):
                with m.If(free & may_close):
                    m.d.sync += [*command(ras=1, we=1), pins.a.eq(0), pins.ba.eq(address.bank)]
                    m.d.sync += [delay.eq(t_rp - 1), is_open.bit_select(address.bank, 1).eq(0)]
                    m.next = "OPEN"
            with m.State("OPEN"):
                with m.If(free):
                    m.d.sync += [
                        *command(ras=1),
                        pins.a.eq(address.row),
                        pins.ba.eq(address.bank),
                        delay.eq(t_open - 1),
                        closing.eq(t_ras - 1),
                        is_open.bit_select(address.bank, 1).eq(1),
                        rows[address.bank].eq(address.row),
                    ]
                    with m.If(writing):
                        m.next = "WRITE"
                    with m.Else():
                        m.next = "READ"
            with m.State("READ"):
                with m.If(refresh_due):
                    m.next = "CLOSE ALL"
                with m.Elif(free & has_room):
                    m.d.comb += ask.eq(1)
                    m.d.sync += [
                        asked.valid.eq(1),
                        asked.last.eq(last),
                        asked.id.eq(identity),
                        asked.outside.eq(outside),
                        pins.a.eq(Cat(Const(0, part_log2), address.column)),
                        pins.ba.eq(address.bank),
                        delay.eq(parts - 1),
                    ]
                    next_beat()
                    with m.If(~outside):
                        m.d.sync += command(cas=1)
                    with m.If(last):
                        m.d.sync += active.eq(0)
                        m.next = "IDLE"
                    with m.Elif(end_of_row):
                        m.next = "LOOK UP"
            with m.State("WRITE"):
                with m.If(refresh_due):
                    m.next = "CLOSE ALL"
                with m.Elif(free & write_data.source.valid & ~reading):
                    m.d.comb += write_data.source.ready.eq(1)
                    m.d.sync += [
                        rest.eq(word[-chip.data_bits :]),
                        rest_mask.eq(~strobes[-(chip.data_bits // 8) :]),
                        delay.eq(parts - 1),
                    ]
                    next_beat()
                    with m.If(~outside):
                        m.d.sync += [
                            *command(cas=1, we=1),
                            pins.a.eq(Cat(Const(0, part_log2), address.column)),
                            pins.ba.eq(address.bank),
                            pins.dq_oe.eq(1),
                            pins.dq_o.eq(word[: chip.data_bits]),
                            pins.dqm.eq(~strobes[: chip.data_bits // 8]),
                            rest_next.eq(1),
                        ]
                        with m.If(closing < t_wr + parts - 1):
                            m.d.sync += closing.eq(t_wr + parts - 1)
                    with m.If(last):
                        m.d.comb += responses.sink.valid.eq(1)
                        m.d.sync += active.eq(0)
                        m.next = "IDLE"
                    with m.Elif(end_of_row):
                        m.next = "LOOK UP"
        return m
