# SPDX-License-Identifier: Apache-2.0
"""The board's end of the link: frames in, transfers on two buses, frames out."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import fifo, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from bitloop.hw.axi import axi_lite_signature, axi_read_signature, axi_write_signature
from bitloop.hw.fifo import Fifo

from .access import Access
from .judge import Judge
from .protocol import (
    CYCLE_BITS,
    HEADER_BYTES,
    SEQUENCES,
    STATUS_BYTES,
    STATUS_FIELDS,
    WINDOW,
    Answer,
    Description,
)
from .receiver import FRAME_ADDRESS_BITS, Receiver
from .sender import READ_CYCLES, Sender

FIFO_BYTES = 1024
"""Between line and link, each way. Must hold `WINDOW` requests without payload; one block RAM."""
TIMEOUT_CYCLES = 65536
"""A register or memory port that takes longer for one transfer is reported and not waited for."""
COUNTER_BITS = 16


class Link(wiring.Component):
    """Answers the requests of `protocol`, one at a time; parser, buses and sender are busy for some
    15 cycles and a quarter of the memory's latency a byte of payload, hidden behind the line where
    a byte takes longer.

    Whatever comes, it answers the next good frame: bytes are taken always, an end of frame starts
    afresh, and no bus is waited for longer than `timeout_cycles`.

    Members
    -------
    rx : stream of bytes from the host, in; what finds the queue of `FIFO_BYTES` full waits
    tx : stream of bytes to the host, out
    registers : `axi_lite_signature`, out: master of the core's registers
    memory_write : `axi_write_signature(data_bits)`, out; single beats, whole words or by strobe
    memory_read : `axi_read_signature(data_bits)`, out; single beats of whole words
    accepted : out, pulse: a request has come that is carried out
    """

    def __init__(
        self, description: Description, data_bits: int, timeout_cycles: int = TIMEOUT_CYCLES
    ) -> None:
        """`data_bits`: width of the memory bus. Addresses beyond the memory that `description`
        tells of go onto the bus all the same; who answers there answers with an error."""
        self.description = description
        self.data_bits = data_bits
        self.timeout_cycles = timeout_cycles
        super().__init__(
            {
                "rx": In(stream.Signature(8)),
                "tx": Out(stream.Signature(8)),
                "registers": Out(axi_lite_signature()),
                "memory_write": Out(axi_write_signature(data_bits)),
                "memory_read": Out(axi_read_signature(data_bits)),
                "accepted": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.received = received = fifo.SyncFIFOBuffered(width=8, depth=FIFO_BYTES)
        m.submodules.sending = sending = fifo.SyncFIFOBuffered(width=8, depth=FIFO_BYTES)
        m.submodules.receiver = receiver = Receiver()
        m.submodules.sender = sender = Sender()
        wiring.connect(m, wiring.flipped(self.rx), received.w_stream)
        # The queue's block RAM is slow to answer, and what follows it is deep.
        m.submodules.staged = staged = Fifo(8, 2)
        wiring.connect(m, received.r_stream, staged.sink)
        wiring.connect(m, staged.source, receiver.sink)
        wiring.connect(m, sender.source, sending.w_stream)
        wiring.connect(m, sending.r_stream, wiring.flipped(self.tx))

        m.submodules.register_port = register_port = Access(32, lite=True)
        m.submodules.memory_port = memory_port = Access(self.data_bits, lite=False)
        for half in (register_port.write, register_port.read):
            _join(m, half, self.registers)
        _join(m, memory_port.write, self.memory_write)
        _join(m, memory_port.read, self.memory_read)

        m.submodules.frame = frame = memory.Memory(shape=8, depth=1 << FRAME_ADDRESS_BITS, init=[])
        frame_write, frame_read = frame.write_port(), frame.read_port()
        byte = Signal(8)
        m.d.sync += byte.eq(frame_read.data)
        own = Signal.like(receiver.write)  # registers: there two cycles after it is decided
        place = Signal(FRAME_ADDRESS_BITS)  # next byte of the payload
        for write in (receiver.write, own, sender.write):  # never two at a time
            with m.If(write.enable):
                m.d.comb += [
                    frame_write.en.eq(1),
                    frame_write.addr.eq(write.address),
                    frame_write.data.eq(write.data),
                ]
        m.d.comb += [
            frame_read.addr.eq(Mux(sender.busy, sender.address, place)),
            sender.data.eq(byte),
        ]

        # ---- what was asked ---------------------------------------------------------------------
        m.submodules.judge = judge = Judge()
        header = receiver.header
        expected = Signal(range(SEQUENCES))
        synchronized = Signal()
        kept = Signal(range(WINDOW + 1))  # answers that can be given again
        m.d.comb += [
            judge.header.eq(header),
            judge.size.eq(receiver.size),
            judge.expected.eq(expected),
            judge.kept.eq(kept),
        ]
        on_registers, writes, legal = judge.on_registers, judge.writes, judge.legal

        # ---- answers that can be given again -----------------------------------------------------
        answers = memory.Memory(shape=8 + 32, depth=WINDOW, init=[])
        m.submodules.answers = answers
        answer_write, answer_read = answers.write_port(), answers.read_port(domain="comb")
        answer = Signal(8)
        fresh = Signal()  # this request was not carried out before
        lane_bits = (self.data_bits // 8).bit_length() - 1
        word = Signal(self.data_bits)
        strobe = Signal(self.data_bits // 8)
        m.d.comb += [
            answer_write.addr.eq(header.sequence),
            answer_read.addr.eq(header.sequence),
            answer_write.data.eq(Cat(answer, word[:32])),
        ]

        # ---- counters ----------------------------------------------------------------------------
        cycles = Signal(CYCLE_BITS)
        seen = Signal(CYCLE_BITS)  # when a STATUS came
        damaged, repeated = Signal(COUNTER_BITS), Signal(COUNTER_BITS)
        counters = {"cycles": seen, "damaged": damaged, "repeated": repeated}
        m.d.sync += cycles.eq(cycles + 1)
        status = Cat(_padded(counters[name], 8 * size) for name, size in STATUS_FIELDS.items())
        description = Array(Const(value, 8) for value in self.description.encode())

        # ---- carrying it out ---------------------------------------------------------------------
        cursor = Signal(32)
        left = Signal(FRAME_ADDRESS_BITS)
        lane = Signal(lane_bits)
        last = Signal()  # byte of this beat
        patience = Signal(range(self.timeout_cycles + 1))
        expired = Signal()
        fetching = Signal(READ_CYCLES)
        number = Signal(range(HEADER_BYTES))  # of a byte of the header
        sequence = Signal.like(header.sequence)
        size = Signal(FRAME_ADDRESS_BITS)  # of the payload of the answer
        port_busy, port_done = Signal(), Signal()
        failed = Signal()
        m.d.comb += [
            lane.eq(Mux(on_registers, cursor[:2], cursor[:lane_bits])),
            last.eq((left == 1) | lane.all()),
        ]
        m.d.sync += [
            port_busy.eq(Mux(on_registers, register_port.busy, memory_port.busy)),
            port_done.eq(Mux(on_registers, register_port.done, memory_port.done)),
            failed.eq(Mux(on_registers, register_port.failed, memory_port.failed)),
            self.accepted.eq(0),
            expired.eq(patience == 0),
            fetching.eq(Cat(1, fetching)),
        ]

        # ---- what goes into the answer: all that may, then which of it ---------------------------
        response = Cat(sequence, answer, _padded(size, 16), header.argument)
        pieces = {
            "word": word.word_select(lane, 8),
            "status": status.word_select(size[: (STATUS_BYTES - 1).bit_length()], 8),
            "description": description[size],
            "header": response.word_select(number, 8),
        }
        put = {name: Signal(name=f"put_{name}") for name in pieces}
        puts = Signal(len(pieces))
        m.d.sync += [puts.eq(Cat(put.values())), own.enable.eq(puts.any())]
        piece_place = Signal.like(place)
        m.d.sync += [piece_place.eq(place), own.address.eq(piece_place)]
        chosen: Value = Const(0, 8)
        for which, (name, value) in zip(puts, pieces.items(), strict=True):
            piece = Signal(8, name=f"piece_{name}")
            m.d.sync += piece.eq(value)
            chosen |= piece & which.replicate(8)
        m.d.sync += own.data.eq(chosen)
        for port in (register_port, memory_port):
            m.d.comb += [
                port.writing.eq(writes),
                port.data.eq(word),
                port.strobe.eq(strobe),
                port.address.eq(Cat(Const(0, lane_bits), cursor[lane_bits:])),
            ]
        m.d.comb += register_port.address.eq(header.argument)

        with m.FSM():
            with m.State("LISTEN"):
                m.d.sync += [
                    cursor.eq(header.argument),
                    left.eq(header.length),
                    size.eq(0),
                    place.eq(HEADER_BYTES),
                    fresh.eq(0),
                    patience.eq(self.timeout_cycles),
                    strobe.eq(0),
                ]
                with m.If(receiver.found):
                    m.next = "DECODE"
            with m.State("DECODE"):  # as long as the judge takes
                m.next = "COMPARE"
            with m.State("COMPARE"):
                m.next = "JUDGE"
            with m.State("JUDGE"):
                m.next = "ANSWER"
                with m.If(~receiver.good):
                    m.d.sync += [answer.eq(Answer.DAMAGED), damaged.eq(damaged + 1)]
                with m.Elif(judge.is_sync & legal):
                    m.d.sync += [
                        expected.eq(header.sequence + 1),
                        synchronized.eq(1),
                        kept.eq(0),
                        left.eq(len(description)),
                    ]
                    m.next = "DESCRIBE"
                with m.Elif(~synchronized):
                    m.d.sync += answer.eq(Answer.UNSYNCHRONIZED)
                with m.Elif(judge.is_next):
                    m.d.sync += [self.accepted.eq(1), fresh.eq(1), expected.eq(expected + 1)]
                    with m.If(kept != WINDOW):
                        m.d.sync += kept.eq(kept + 1)
                    m.next = "BEGIN"
                with m.Elif(judge.is_kept):
                    m.d.sync += repeated.eq(repeated + 1)
                    m.next = "REPEAT"
                with m.Else():
                    m.d.sync += answer.eq(Answer.OUT_OF_ORDER)
            with m.State("REPEAT"):
                m.d.sync += Cat(answer, word[:32]).eq(answer_read.data)
                m.next = "ANSWER"
                with m.If(judge.reads_again):
                    m.next = "BEGIN"
                with m.Elif(on_registers & ~writes):
                    m.next = "AGAIN"
            with m.State("AGAIN"):
                m.next = "ANSWER"
                with m.If(answer == Answer.DONE):
                    m.next = "UNPACK"
            with m.State("BEGIN"):
                m.d.sync += [answer.eq(Answer.DONE), fetching.eq(0), seen.eq(cycles)]
                with m.If(~legal | judge.is_sync):
                    m.d.sync += answer.eq(Answer.REFUSED)
                    m.next = "ANSWER"
                with m.Elif(judge.is_status):
                    m.d.sync += left.eq(STATUS_BYTES)
                    m.next = "TELL"
                with m.Elif(writes):
                    m.next = "GATHER"
                with m.Else():
                    m.next = "REQUEST"
            with m.State("GATHER"):  # bytes of the payload to a word of the bus
                with m.If(fetching[-1]):
                    m.d.sync += [
                        word.word_select(lane, 8).eq(byte),
                        strobe.bit_select(lane, 1).eq(1),
                        place.eq(place + 1),
                        left.eq(left - 1),
                        fetching.eq(0),
                    ]
                    with m.If(last):
                        m.next = "REQUEST"
                    with m.Else():
                        m.d.sync += cursor.eq(cursor + 1)
            with m.State("REQUEST"):
                m.d.sync += patience.eq(patience - 1)
                with m.If(~port_busy):
                    m.d.comb += [
                        register_port.start.eq(on_registers),
                        memory_port.start.eq(~on_registers),
                    ]
                    m.next = "WAIT"
                with m.Elif(expired):
                    m.d.sync += answer.eq(Answer.TIMEOUT)
                    m.next = "ANSWER"
            with m.State("WAIT"):
                m.d.sync += patience.eq(patience - 1)
                with m.If(port_done):
                    m.d.sync += [
                        patience.eq(self.timeout_cycles),
                        strobe.eq(0),
                        fetching.eq(0),
                    ]
                    with m.If(failed):
                        m.d.sync += [answer.eq(Answer.BUS_ERROR), size.eq(0)]
                        m.next = "ANSWER"
                    with m.Elif(~writes):
                        m.d.sync += word.eq(
                            Mux(on_registers, register_port.result, memory_port.result)
                        )
                        m.next = "UNPACK"
                    with m.Elif(left == 0):
                        m.next = "ANSWER"
                    with m.Else():
                        m.d.sync += cursor.eq(cursor + 1)
                        m.next = "GATHER"
                with m.Elif(expired):
                    m.d.sync += [answer.eq(Answer.TIMEOUT), size.eq(0)]
                    m.next = "ANSWER"
            with m.State("UNPACK"):  # a word of the bus to bytes of the payload
                m.d.comb += put["word"].eq(1)
                m.d.sync += [
                    place.eq(place + 1),
                    left.eq(left - 1),
                    cursor.eq(cursor + 1),
                    size.eq(size + 1),
                ]
                with m.If(left == 1):
                    m.next = "ANSWER"
                with m.Elif(last):
                    m.next = "REQUEST"
            with m.State("TELL"):
                m.d.comb += put["status"].eq(1)
                m.d.sync += [
                    place.eq(place + 1),
                    left.eq(left - 1),
                    size.eq(size + 1),
                ]
                with m.If(left == 1):
                    m.next = "ANSWER"
            with m.State("DESCRIBE"):
                m.d.comb += put["description"].eq(1)
                m.d.sync += [
                    answer.eq(Answer.DONE),
                    place.eq(place + 1),
                    left.eq(left - 1),
                    size.eq(size + 1),
                ]
                with m.If(left == 1):
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += answer_write.en.eq(fresh)
                m.d.sync += [place.eq(0), number.eq(0), sequence.eq(header.sequence)]
                with m.If((answer == Answer.DAMAGED) | (answer == Answer.OUT_OF_ORDER)):
                    m.d.sync += sequence.eq(expected)
                m.next = "HEADER"
            with m.State("HEADER"):
                m.d.comb += put["header"].eq(1)
                m.d.sync += [
                    place.eq(place + 1),
                    number.eq(number + 1),
                ]
                with m.If(number.all()):
                    m.next = "SEND"
            with m.State("SEND"):  # the last byte is written long before the sender looks at it
                m.d.comb += [sender.start.eq(1), sender.size.eq(size + HEADER_BYTES)]
                m.next = "SENDING"
            with m.State("SENDING"):
                with m.If(~sender.busy):
                    m.d.comb += receiver.proceed.eq(1)
                    m.next = "RESUME"
            with m.State("RESUME"):  # the receiver sees `proceed`
                m.next = "LISTEN"
        return m


def _join(m: Module, inner: object, outer: object) -> None:
    """Same-sided interfaces, of which `inner` may lack members."""
    for name, member in inner.signature.members.items():  # type: ignore[attr-defined]
        ours, theirs = getattr(inner, name), getattr(outer, name)
        m.d.comb += theirs.eq(ours) if member.flow == Out else ours.eq(theirs)


def _padded(value: Signal, width: int) -> Value:
    return Cat(value, Const(0, width - len(value))) if len(value) < width else value[:width]
