# SPDX-License-Identifier: Apache-2.0
"""The link: the host's driver against the board's gateware in simulation."""

import random

import pytest
from link_lines import CLOCK, DESCRIPTION, MEMORY_BASE, MEMORY_BYTES, Board, FaultyLine

from bitloop.boards.link.host import LinkBus, Patience, Request
from bitloop.boards.link.protocol import (
    BAUD,
    PAYLOAD_BYTES,
    REGISTER_BYTES,
    WINDOW,
    Command,
    Frame,
    unstuff,
)
from bitloop.boards.link.uart import BITS
from bitloop.errors import DeviceError
from bitloop.sim.simulation import Fault

SOON = Patience(answer=0.002, board=0.5)
"""In the bench's time."""


def bitwise_crc32(data):
    """From the definition: polynomial 0x04C11DB7, reflected, started and ended with ones."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@pytest.fixture
def board():
    found = Board()
    yield found
    assert found.violation == ""
    found.close()


def ask(board, *frames):
    """Answers to bytes or frames sent one after the other."""
    for frame in frames:
        board.write(frame if isinstance(frame, bytes) else frame.encode())
    line = board.run(200_000, stop=False)
    assert line.endswith(b"\0")
    return [Frame.decode(part) for part in line[:-1].split(b"\0")]


def test_the_board_says_what_it_is(board):
    bus = LinkBus(board, SOON)
    assert bus.description == DESCRIPTION
    before, asked = bus.status().cycles, board.cycles
    assert 0 <= asked - before < 500
    assert bus.status().damaged == 0


@pytest.mark.parametrize("payload", [b"", b"\0" * 512, b"\xff" * 512, bytes(range(256)) * 2])
def test_the_boards_crc_is_the_reference(board, payload):
    ask(board, Frame(0, Command.SYNC, 0, 9))
    board.memory[: len(payload)] = list(payload)
    size = len(payload) or 1
    board.write(Frame(1, Command.READ_MEMORY, size, MEMORY_BASE).encode())
    body = unstuff(board.run(50_000, stop=False)[:-1])
    assert int.from_bytes(body[-4:], "little") == bitwise_crc32(body[:-4])
    assert body[8:-4] == bytes(board.memory[:size])


def test_memory_of_any_address_and_size(board):
    bus = LinkBus(board, SOON)
    rng = random.Random(1)
    model = bytearray(board.memory.tobytes())
    for _ in range(60):
        size = rng.choice([1, 2, 3, 5, 511, 512, 513, rng.randrange(1, 4000)])
        at = rng.randrange(MEMORY_BYTES - size)
        if rng.random() < 0.5:
            data = rng.choice([rng.randbytes(size), bytes(size), b"\xff" * size])
            bus.write_memory(MEMORY_BASE + at, data)
            model[at : at + size] = data
        else:
            assert bus.read_memory(MEMORY_BASE + at, size) == model[at : at + size]
    bus.flush()
    assert board.memory.tobytes() == model
    assert bus.traffic.repeats == bus.traffic.damaged == 0
    with pytest.raises(DeviceError, match="outside the memory of bench"):
        bus.read_memory(MEMORY_BASE + MEMORY_BYTES - 1, 2)


def test_a_repeated_request_is_answered_again_and_not_done_again(board):
    write = Frame(5, Command.WRITE_REGISTER, 4, 0x10, b"abcd")
    read = Frame(6, Command.READ_REGISTER, 4, 0x10)
    other = Frame(7, Command.WRITE_REGISTER, 4, 0x20, b"efgh")
    answers = ask(board, Frame(4, Command.SYNC, 0, 0), write, read, other, write, read, read)
    assert len(board.register_writes) == 2
    assert answers[4] == answers[1]
    assert answers[2].payload == (1).to_bytes(4, "little")  # one write before the read
    assert answers[5] == answers[6] == answers[2]
    # Beyond the window nothing is known any more.
    many = [Frame(8 + i, Command.WRITE_REGISTER, 4, 0, b"....") for i in range(WINDOW)]
    assert [a.code for a in ask(board, *many)] == [0x80] * WINDOW
    assert [(a.code, a.sequence) for a in ask(board, other, many[0])] == [
        (0x85, 8 + WINDOW),
        (0x80, 8),
    ]
    assert len(board.register_writes) == 2 + WINDOW


def test_gaps_damage_and_bad_requests_are_told(board):
    assert [a.code for a in ask(board, Frame(0, Command.STATUS, 0, 0))] == [0x86]
    frames = [
        Frame(0, Command.SYNC, 0, 0x55),
        Frame(2, Command.STATUS, 0, 0),  # 1 is missing
        Frame(1, 99, 0, 0),
        Frame(2, Command.READ_MEMORY, 513, MEMORY_BASE),
        Frame(3, Command.WRITE_MEMORY, 3, MEMORY_BASE, b"four"),
        Frame(4, Command.READ_REGISTER, 4, 0x1001),
        Frame(5, Command.READ_REGISTER, 4, 0x2000),
        Frame(6, Command.READ_MEMORY, 4, MEMORY_BASE + MEMORY_BYTES),
    ]
    answers = ask(board, *frames)
    assert [a.code for a in answers] == [0x80, 0x85, 0x81, 0x81, 0x81, 0x81, 0x81, 0x82]
    assert (answers[0].argument, answers[1].sequence) == (0x55, 1)
    damaged = bytearray(Frame(7, Command.STATUS, 0, 0).encode())
    damaged[3] ^= 4
    answers = ask(board, bytes(damaged), b"\1" * 3000 + b"\0", Frame(7, Command.STATUS, 0, 0))
    assert [(a.code, a.sequence) for a in answers[:2]] == [(0x84, 7), (0x84, 7)]
    assert answers[2].code == 0x80 and answers[2].payload[8] == 2
    assert not board.register_writes


def test_garbage_never_wedges_the_board(board):
    rng = random.Random(3)
    for _ in range(12):
        board.write(rng.randbytes(rng.randrange(2000)))
        board.write(bytes(rng.choice([0, 1, 2, 255]) for _ in range(500)))
        board.run(50_000, stop=False)
        board.write(b"\0")
        token = rng.randrange(1 << 32)
        assert ask(board, Frame(9, Command.SYNC, 0, token))[-1].argument == token


@pytest.mark.parametrize(
    "rate, pauses, operations", [(0.0, 0.3, 200), (0.02, 0.0, 4500), (0.2, 0.2, 500)]
)
def test_faults_lose_and_double_nothing(rate, pauses, operations):
    board = Board(pauses=pauses)
    line = FaultyLine(board, rate, seed=int(1000 * rate), delay_seconds=2 * SOON.answer)
    bus = LinkBus(line, Patience(SOON.answer, 10.0))
    rng = random.Random(operations)
    model = bytearray(board.memory.tobytes())
    written: list[tuple[int, int]] = []
    done = 0
    while done < operations:
        kind = rng.randrange(4)
        if kind == 0:
            batch = [(4 * rng.randrange(1024), rng.randrange(1 << 32)) for _ in range(20)]
            bus.exchange(
                [
                    Request(Command.WRITE_REGISTER, REGISTER_BYTES, a, v.to_bytes(4, "little"))
                    for a, v in batch
                ]
            )
            written += batch
            done += len(batch)
        elif kind == 1:
            assert bus.read_register(4 * rng.randrange(1024)) == len(written)
            done += 1
        else:
            size = rng.choice([1, 7, 100, 1300])
            at = rng.randrange(MEMORY_BYTES - size)
            if kind == 2:
                data = rng.randbytes(size)
                bus.write_memory(MEMORY_BASE + at, data)
                model[at : at + size] = data
            else:
                assert bus.read_memory(MEMORY_BASE + at, size) == model[at : at + size]
            done += -(-size // PAYLOAD_BYTES)
    bus.flush()
    assert board.register_writes == written
    assert board.memory.tobytes() == model
    assert board.violation == ""
    print(f"{line.frames:,} frames, {dict(line.happened)}, {bus.traffic}, {board.cycles:,} cycles")
    assert line.frames > 2 * operations
    if rate:
        assert set(line.happened) == set(line.KINDS) and bus.traffic.repeats > 0
    else:
        assert bus.traffic.repeats == 0
    board.close()


def test_a_port_that_does_not_answer_is_reported_and_the_link_lives(board):
    bus = LinkBus(board, SOON)
    board.set_fault(Fault.READ_SILENT, MEMORY_BASE + 512)
    with pytest.raises(DeviceError, match=r"bus does not answer.*read memory.*0x10000200"):
        bus.read_memory(MEMORY_BASE, 4096)
    with pytest.raises(DeviceError, match="does not answer"):
        bus.write_memory(MEMORY_BASE, b"more")
        bus.flush()
    bus.write_register(0x10, 1)
    bus.flush()
    board.silence_registers(True)
    with pytest.raises(DeviceError, match=r"does not answer.*write register"):
        bus.write_register(0x10, 2)
        bus.flush()
    assert bus.status().cycles > 0
    assert board.register_writes == [(0x10, 1)]


def test_errors_of_the_bus_name_the_address(board):
    bus = LinkBus(board, SOON)
    board.set_fault(Fault.WRITE_ERROR, MEMORY_BASE + 1024)
    with pytest.raises(DeviceError, match=r"bus answers with an error.*write memory.*0x10000400"):
        bus.write_memory(MEMORY_BASE, bytes(4096))
        bus.flush()
    board.set_fault(Fault.NONE, 0)
    bus.write_memory(MEMORY_BASE, bytes(range(256)))
    assert bus.read_memory(MEMORY_BASE, 256) == bytes(range(256))


def test_a_board_that_was_reset_is_noticed(board):
    bus = LinkBus(board, SOON)
    bus.write_register(0, 1)
    bus.flush()
    other = Board()
    bus.line = other
    bus.write_register(0, 2)
    with pytest.raises(DeviceError, match="was reset"):
        bus.flush()
    bus.write_register(0, 3)
    bus.flush()
    assert other.register_writes == [(0, 3)]
    other.close()


@pytest.mark.parametrize("writes", [True, False], ids=["write", "read"])
@pytest.mark.parametrize("latency", [4, 40])
def test_bursts_reach_their_share_of_the_line(writes, latency):
    board = Board(uart=True, latency=latency)
    bus = LinkBus(board, Patience(0.2, 1.0))
    data = random.Random(5).randbytes(24 * PAYLOAD_BYTES)
    start = board.cycles
    if writes:
        bus.write_memory(MEMORY_BASE, data)
        bus.flush()
        assert board.memory[: len(data)].tobytes() == data
    else:
        board.memory[: len(data)] = list(data)
        assert bus.read_memory(MEMORY_BASE, len(data)) == data
    share = len(data) / ((board.cycles - start) / CLOCK * BAUD / BITS)
    print(f"{'write' if writes else 'read'}: {share:.1%} of the line")
    assert 0.85 <= share < 1
    assert bus.traffic.repeats == bus.traffic.damaged == 0
    board.close()


def test_what_overruns_the_uart_is_sent_again():
    """With every answer lost for a while, the host sends whole windows again and again."""
    board = Board(uart=True)
    line = FaultyLine(board, 0.1, seed=2, delay_seconds=0.01)
    bus = LinkBus(line, Patience(0.02, 5.0))
    data = random.Random(6).randbytes(4 * PAYLOAD_BYTES)
    bus.write_memory(MEMORY_BASE + 3, data)
    assert bus.read_memory(MEMORY_BASE + 3, len(data)) == data
    board.close()


def test_writes_go_with_the_next_question_and_before_it(board):
    bus = LinkBus(board, SOON)
    bus.write_memory(MEMORY_BASE + 7, b"posted")
    bus.write_register(0x20, 5)
    assert not board.register_writes and not board.memory.any()
    before = board.cycles
    assert bus.read_register(0x20) == 1  # one write before it
    together = board.cycles - before
    assert board.memory[7:13].tobytes() == b"posted"
    assert board.register_writes == [(0x20, 5)]
    apart = board.cycles
    bus.write_memory(MEMORY_BASE + 7, b"posted")
    bus.flush()
    bus.write_register(0x20, 5)
    bus.flush()
    bus.read_register(0x20)
    assert together < board.cycles - apart
