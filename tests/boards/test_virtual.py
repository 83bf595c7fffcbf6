# SPDX-License-Identifier: Apache-2.0
"""Whole boards in simulation, driven through pyserial by the driver that boards are driven with."""

import time

import numpy as np
import pytest

import bitloop
from bitloop.boards.device import VIRTUAL_PATIENCE, SerialDevice, VirtualDevice
from bitloop.boards.link.host import LinkBus
from bitloop.boards.link.line import SerialLine
from bitloop.boards.targets import find_target
from bitloop.boards.virtual import VirtualBoard
from bitloop.cli.devices import ask
from bitloop.codes import encode, flip_sign
from bitloop.compile import compile_graph
from bitloop.demo.digits import load_digits, train
from bitloop.errors import BinaryError, DeviceError, SearchError
from bitloop.frontend.torch_export import import_program
from bitloop.graph.execute import execute
from bitloop.hw.config import preset
from bitloop.search.budget import check_clock
from bitloop.session import Session, open_device
from bitloop.sim.store import Store
from bitloop.sim.stored import StoredDevice, conditions, stored

CONFIG = preset("n4")
TARGET = find_target("ulx3s-12f")


@pytest.fixture(scope="module")
def digits():
    """The digits network, hardly trained: graph, binary, unsigned codes of images."""
    learned, others = load_digits()
    program = bitloop.quantize(train(learned, epochs=1), learned.x[:64])
    graph = import_program(program, "digits", CONFIG.multiplier_bits)
    binary = compile_graph(graph, CONFIG)
    (spec,) = binary.input_specs
    return graph, binary, {spec.name: encode(spec, others.x[:2])}


@pytest.fixture(scope="module")
def board():
    found = VirtualBoard(TARGET, CONFIG)
    yield found
    found.close()


@pytest.fixture
def device(board):
    found = SerialDevice(f"serial:{board.port}", CONFIG, VIRTUAL_PATIENCE)
    yield found
    found.close()


def test_a_network_runs_bit_exact_on_a_whole_board(digits, device):
    graph, binary, images = digits
    session = Session(binary, device)
    found, profile = device.run(
        {spec.name: flip_sign(spec, images[spec.name]) for spec in binary.input_specs}
    )
    expected = execute(graph, images)
    for spec in binary.output_specs:
        assert np.array_equal(flip_sign(spec, found[spec.name]), expected[spec.name])
    assert sum(profile.causes.values()) == profile.cycles
    assert profile.head + sum(profile.layer_cycles) + profile.tail == profile.cycles
    assert profile in list(device.predictions())
    assert device.bus.traffic.repeats == device.bus.traffic.damaged == 0
    assert device.bus.status().damaged == 0
    check_report(session.measure(thorough=True))


def check_report(report):
    """A report of the digits network, on a board whose clock is its bitstream's."""
    found = report.board
    assert found.predicted.exact and found.difference() is None
    assert found.cycles == report.cycles
    assert found.megahertz == pytest.approx(80, abs=1)
    image, trip = 64, found.trip
    assert image < trip.sent < image + 600
    # Ten bits a byte; both ways at a time where neither waits for the other.
    byte = 10 * round(found.megahertz / 3)
    assert byte * max(trip.sent, trip.received) < trip.cycles
    assert trip.cycles < 2 * byte * (trip.sent + trip.received) + 2 * report.cycles


def test_a_board_says_what_it_is(device):
    description = device.open().description
    assert description.name == TARGET.name
    assert description.memory_bytes == TARGET.memory_bytes == 32 << 20
    assert abs(description.clock_hertz - 80e6) < 1e6
    # The last byte of the memory chip, and the one after it.
    end = description.memory_base + description.memory_bytes
    device.bus.write_memory(end - 5, b"last!")
    assert device.bus.read_memory(end - 5, 5) == b"last!"
    with pytest.raises(DeviceError, match="outside the memory of ulx3s-12f"):
        device.bus.read_memory(end, 1)


def test_a_program_can_be_placed_past_the_link(board, device):
    bus = device.open()
    content = bytes(range(256)) * 300
    board.write_memory(4096, content)
    assert bus.read_memory(4096 + 256, 64) == content[256:320]
    end = TARGET.memory_bytes
    board.write_memory(end - 4, b"last")
    assert bus.read_memory(end - 4, 4) == b"last"
    with pytest.raises(DeviceError, match="no memory chip"):
        board.write_memory(-1, b"x")


def test_a_port_is_asked_what_is_behind_it(board):
    found = ask(board.port)
    assert (found["board"], found["memory_bytes"]) == (TARGET.name, 32 << 20)
    assert found["device"] == f"serial:{board.port}"
    assert "cannot open" in ask("/dev/ttyUSB99")["description"]


def test_a_binary_for_another_core_is_refused(digits, board):
    graph, binary, _ = digits
    other = CONFIG.replace(weight_rows=512)
    wrong = SerialDevice(f"serial:{board.port}", other, VIRTUAL_PATIENCE)
    with pytest.raises(BinaryError):
        wrong.load(binary)
    with pytest.raises(DeviceError, match="the core's fingerprint is"):
        wrong.load(compile_graph(graph, other))
    wrong.close()


def test_a_board_that_is_switched_off_is_noticed_in_time():
    board = VirtualBoard(TARGET, CONFIG)
    with pytest.raises(DeviceError, match="does not take 2 bytes at 33,554,431"):
        board.write_memory(TARGET.memory_bytes - 1, b"ab")
    board.close()
    board = VirtualBoard(TARGET, CONFIG)
    line = SerialLine(board.port, TARGET.baud, 1.5)
    bus = LinkBus(line, VIRTUAL_PATIENCE)
    assert bus.status().damaged == 0
    board.close()
    start = time.monotonic()
    with pytest.raises(DeviceError, match=f"{board.port} (is gone|cannot be written)"):
        bus.status()
    assert time.monotonic() - start < 2
    line.close()


def test_a_virtual_board_is_loaded_at_once_and_runs_the_same(digits):
    graph, binary, images = digits
    (spec,) = binary.input_specs
    codes = {spec.name: images[spec.name][:1]}
    device = VirtualDevice(f"virtual:{TARGET.name}", CONFIG)
    device.load(binary)
    assert device.bus.traffic.sent < binary.program_bytes / 4
    found, profile = device.run({spec.name: flip_sign(spec, codes[spec.name])})
    assert profile in list(device.predictions())
    device.close()
    expected = execute(graph, codes)
    for spec in binary.output_specs:
        assert np.array_equal(flip_sign(spec, found[spec.name]), expected[spec.name])


def test_measurements_are_kept_for_a_board_that_says_what_it_is(tmp_path, board, monkeypatch):
    monkeypatch.setattr(VirtualDevice, "_built", lambda device: None)
    device = VirtualDevice(f"virtual:{TARGET.name}", CONFIG)
    found = conditions(device)
    assert found == conditions(VirtualDevice(f"virtual:{TARGET.name}", CONFIG))
    assert isinstance(stored(device, Store(tmp_path / "measurements.sqlite")), StoredDevice)
    slower = VirtualDevice(f"virtual:{TARGET.name}", CONFIG)
    monkeypatch.setattr(slower, "_built", lambda: 50.0)  # its memory waits other numbers of cycles
    assert conditions(slower).hardware != found.hardware
    # What is behind a port does not say of which bitstream it is.
    assert conditions(SerialDevice(f"serial:{board.port}", CONFIG)) is None


def test_a_budget_of_time_without_a_clock_names_the_build_that_is_missing():
    with pytest.raises(SearchError, match="--clock-mhz.*or no build of x: run `bitloop build`"):
        check_clock(None, "no build of x: run `bitloop build`")


def test_unknown_boards_are_named():
    with pytest.raises(DeviceError, match="unknown board 'nonsense'; known: ulx3s-85f"):
        open_device("virtual:nonsense", CONFIG)
    with pytest.raises(DeviceError, match=r"virtual:BOARD"):
        open_device("ulx3s-12f", CONFIG)
