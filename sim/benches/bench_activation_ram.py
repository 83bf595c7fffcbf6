# SPDX-License-Identifier: Apache-2.0
"""The activation RAM against an array: all ports at once, every conflict."""

from __future__ import annotations

import random
from typing import Any

import cocotb
import numpy as np
from amaranth.lib import wiring

from bitloop.hw.activation_ram import (
    READ_LATENCY,
    RESIDUAL_READ_LAYOUT,
    WRITE_LATENCY,
    ActivationRam,
    collect_layout,
)
from bitloop.hw.config import ACTIVATION_BANKS, CoreConfig, preset
from bitloop.hw.isa import ADDRESS_BITS
from bitloop.hw.streams import activation_write_layout
from bitloop.sim.regression import bench_config, bench_seed

from .harness import Bench, StreamSource, pack

ROW_BITS = ADDRESS_BITS - 2


def dut(preset_name: str) -> tuple[str, wiring.Component]:
    return "activation_ram", ActivationRam(preset(preset_name))


class Traffic:
    """Drives every port at random and keeps the memory's contents cycle by cycle."""

    def __init__(self, dut: Any, config: CoreConfig, rng: random.Random) -> None:
        self.dut, self.config, self.rng = dut, config, rng
        self.layout = activation_write_layout(config)
        self.load = StreamSource(dut, "load", rng, 0.3)
        self.store = StreamSource(dut, "store_address", rng, 0.3)
        self.contents = np.zeros((1 << ADDRESS_BITS, config.lanes), np.uint8)
        self.known = np.zeros((1 << ADDRESS_BITS, config.lanes), bool)
        self.pending: list[tuple[int, int]] = []  # cycle, write payload
        self.expected: dict[tuple[int, object], tuple[np.ndarray, np.ndarray]] = {}
        self.cycle = 0
        self.reads = self.stores = self.refused = 0
        # Few rows, so that reads meet writes; a few addresses lie beyond the memory.
        rows = [rng.randrange(config.activation_words) for _ in range(40)]
        self.addresses = rows + [config.activation_words % (1 << ADDRESS_BITS), (1 << 14) - 1]
        self.compute: dict[int, int] = {}
        self.residual: int | None = None
        self.collect: int | None = None

    def write(self) -> int:
        config, rng = self.config, self.rng
        return pack(
            self.layout,
            address=rng.choice(self.addresses),
            data=rng.getrandbits(8 * config.lanes),
            parts=rng.randrange(1, 1 << config.groups_per_word),
        )

    def drive(self) -> None:
        rng = self.rng
        while len(self.load.queue) < 2:
            self.load.queue.append(self.write())
        while len(self.store.queue) < 2:
            self.store.queue.append(rng.choice(self.addresses))
        self.load.drive()
        self.store.drive()
        self.compute = {}
        word = 0
        for bank in range(ACTIVATION_BANKS):
            mine = [a for a in self.addresses if a % ACTIVATION_BANKS == bank]
            if mine and rng.random() < 0.5:
                self.compute[bank] = rng.choice(mine)
                row = self.compute[bank] >> 2
                word |= (1 | row << 1) << (bank * (ROW_BITS + 1))
        self.dut.compute.value = word
        self.residual = None
        if self.compute and rng.random() < 0.3:
            self.residual = rng.choice(sorted(self.compute))
        enabled = self.residual is not None
        bank = self.residual if self.residual is not None else rng.randrange(ACTIVATION_BANKS)
        self.dut.residual.value = pack(RESIDUAL_READ_LAYOUT, enable=enabled, bank=bank)
        self.collect = self.write() if rng.random() < 0.5 else None
        enabled = self.collect is not None
        self.dut.collect.value = pack(
            collect_layout(self.config), enable=enabled, write=self.collect or 0
        )

    def sample(self) -> None:
        # What the RAM holds for reads issued now.
        for due, payload in [p for p in self.pending if p[0] <= self.cycle]:
            self.pending.remove((due, payload))
            self.commit(payload)
        for bank, address in self.compute.items():
            self.expect(bank, address)
            if bank == self.residual:
                self.expect("residual", address)
        loading, storing = self.load.offered, self.store.offered
        load, store = (self.load.queue[0], self.store.queue[0])
        self.load.sample()
        self.store.sample()
        bank = (load & ((1 << ADDRESS_BITS) - 1)) % ACTIVATION_BANKS
        if loading:
            collecting = self.collect is not None and self.collect % ACTIVATION_BANKS == bank
            assert self.load.offered == collecting, "load refused without a collector write"
            self.refused += collecting
            if not collecting:
                self.pending.append((self.cycle + WRITE_LATENCY, load))
        if storing:
            busy = store % ACTIVATION_BANKS in self.compute or self.residual is not None
            assert self.store.offered == busy, "store refused without a compute read"
            if not busy:
                self.expect("store", store)
        if self.collect is not None:
            self.pending.append((self.cycle + WRITE_LATENCY, self.collect))
        self.check()
        self.cycle += 1

    def commit(self, payload: int) -> None:
        config = self.config
        address = payload & ((1 << ADDRESS_BITS) - 1)
        if address >= config.activation_words:
            return
        value = (payload >> ADDRESS_BITS).to_bytes(config.lanes + 1, "little")
        parts = payload >> (ADDRESS_BITS + 8 * config.lanes)
        for part in range(config.groups_per_word):
            if parts >> part & 1:
                span = slice(part * config.columns, (part + 1) * config.columns)
                self.contents[address, span] = np.frombuffer(value, np.uint8)[: config.lanes][span]
                self.known[address, span] = True

    def expect(self, port: object, address: int) -> None:
        if address < self.config.activation_words:
            due = self.cycle + READ_LATENCY
            self.expected[due, port] = (self.contents[address].copy(), self.known[address].copy())
        else:
            zero = np.zeros(self.config.lanes, bool)
            self.expected[self.cycle + READ_LATENCY, port] = (zero.astype(np.uint8), zero)

    def check(self) -> None:
        lanes = self.config.lanes
        read = int(self.dut.compute_data.value).to_bytes(lanes * ACTIVATION_BANKS, "little")
        single = int(self.dut.single_data.value).to_bytes(lanes, "little")
        assert int(self.dut.store_valid.value) == ((self.cycle, "store") in self.expected)
        for port in (*range(ACTIVATION_BANKS), "residual", "store"):
            wanted = self.expected.pop((self.cycle, port), None)
            if wanted is None:
                continue
            raw = single if isinstance(port, str) else read[port * lanes : (port + 1) * lanes]
            value, known = wanted
            got = np.frombuffer(raw, np.uint8)
            assert np.array_equal(got[known], value[known]), f"port {port}: {got} not {value}"
            self.reads += bool(known.all())
            self.stores += port == "store"


@cocotb.test
async def random_traffic(dut: Any) -> None:
    config, rng = bench_config(), random.Random(bench_seed())
    traffic = Traffic(dut, config, rng)
    bench = Bench(dut, traffic)
    await bench.reset()
    await bench.idle(3000)
    assert traffic.reads > 1000 and traffic.stores > 300 and traffic.refused > 50
