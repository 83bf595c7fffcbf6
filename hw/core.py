# SPDX-License-Identifier: Apache-2.0
"""The core: host registers, program, loader, compute, storer and what joins them."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal
from amaranth.lib import wiring

from .activation_ram import ActivationRam
from .array import Array, array_latency
from .axi import (
    axi_lite_signature,
    axi_read_signature,
    axi_write_signature,
    connect_flat,
    flat_ports,
)
from .collector import Collector
from .compute import ComputeUnit
from .config import CoreConfig
from .counters import Counters
from .dispatch import Dispatch
from .isa import Queue
from .loader import Loader
from .operand_fetch import STAGES, OperandFetch
from .read_engine import FETCH_CLIENT, LOADER_CLIENT, ReadEngine
from .register_file import RegisterFile
from .registers import Cause, ErrorCode
from .storer import Storer
from .write_engine import WriteEngine

FLUSH_CYCLES = 128
"""Cycles all units are held in reset after an error; more than the longest pipeline."""


class Core(wiring.Component):
    """One accelerator core with an AXI4 master and an AXI4-Lite slave.

    An error stops the units, lets what is owed on the bus finish, then resets everything but the
    registers; the core can then be started again. Memories keep their contents throughout.

    Members
    -------
    m_axi_* : AXI4 master to external memory, `config.data_bits` wide
    s_axil_* : AXI4-Lite slave of the register map

    `column_module` is `Array`'s.
    """

    def __init__(
        self, config: CoreConfig, target: str = "generic", column_module: str | None = None
    ) -> None:
        self._config = config
        self._target = target
        self._column_module = column_module
        super().__init__(
            {
                **flat_ports("m_axi", axi_write_signature(config.data_bits)),
                **flat_ports("m_axi", axi_read_signature(config.data_bits)),
                **flat_ports("s_axil", axi_lite_signature(), flip=True),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        flush = Signal(init=1)
        self._flush = ResetInserter(flush)

        registers = RegisterFile(config)
        counters = Counters(config)
        m.submodules.registers, m.submodules.counters = registers, counters

        array = Array(config, self._target, self._column_module)
        dispatch = Dispatch(config)
        compute = ComputeUnit(config, array.PARAMETER_LEAD)
        operands = OperandFetch(config, array.WEIGHT_LEAD)
        # With residuals outputs take longer, but at most every other cycle brings one.
        collector = Collector(config, 1 + STAGES + array_latency(config, residual=False))
        ram = ActivationRam(config)
        loader = Loader(config, array.load_latency)
        storer = Storer(config)
        reader = ReadEngine(config)
        writer = WriteEngine(config)
        for name, unit in {
            "dispatch": dispatch,
            "compute": compute,
            "operands": operands,
            "array": array,
            "collector": collector,
            "activations": ram,
            "loader": loader,
            "storer": storer,
            "reader": reader,
            "writer": writer,
        }.items():
            m.submodules[name] = self._flush(unit)

        connect_flat(m, self, "m_axi", reader.axi)
        connect_flat(m, self, "m_axi", writer.axi)
        connect_flat(m, self, "s_axil", registers.axi)

        # ---- program ----------------------------------------------------------------------------
        connect = wiring.connect
        connect(m, dispatch.request, reader.request[FETCH_CLIENT])
        connect(m, reader.response[FETCH_CLIENT], dispatch.beats)
        connect(m, dispatch.load, loader.line)
        connect(m, dispatch.compute, compute.instruction)
        connect(m, dispatch.store, storer.line)
        m.d.comb += [
            dispatch.program.eq(registers.program),
            dispatch.lines.eq(registers.program_lines),
            dispatch.loading.eq(loader.busy),
            dispatch.retired[Queue.LOAD].eq(loader.retired),
            dispatch.retired[Queue.COMPUTE].eq(collector.retired),
            dispatch.retired[Queue.STORE].eq(storer.retired),
        ]

        # ---- memory side ------------------------------------------------------------------------
        connect(m, loader.request, reader.request[LOADER_CLIENT])
        connect(m, reader.response[LOADER_CLIENT], loader.response)
        connect(m, storer.request, writer.request)
        connect(m, storer.beats, writer.beats)
        connect(m, loader.write, ram.load)
        connect(m, storer.read_address, ram.store_address)
        m.d.comb += [
            reader.windows.eq(registers.windows),
            writer.windows.eq(registers.windows),
            storer.finished.eq(writer.finished),
            storer.read_data.eq(ram.single_data),
            storer.read_valid.eq(ram.store_valid),
            compute.step_write.eq(loader.step),
        ]

        # ---- compute ----------------------------------------------------------------------------
        # Constants go before the loader's writes; both travel down the same chain.
        m.d.sync += array.load.eq(Mux(compute.load.valid, compute.load, loader.load))
        m.d.comb += [
            loader.load_ready.eq(~compute.load.valid),
            operands.operation.eq(compute.operation),
            ram.compute.eq(operands.bank_read),
            operands.bank_data.eq(ram.compute_data),
            ram.residual.eq(operands.residual_read),
            operands.residual_data.eq(ram.single_data),
            array.weight_read.eq(operands.weight_read),
            array.parameter_read.eq(operands.parameter_read),
            array.step.eq(operands.step),
            array.operands.eq(operands.operands),
            array.picks.eq(operands.picks),
            array.residual.eq(operands.residual),
            compute.empty.eq(collector.empty),
            collector.issued_valid.eq(compute.output_valid),
            collector.issued_address.eq(compute.output_address),
            collector.issued_part.eq(compute.output_part),
            collector.issued_end.eq(compute.output_end),
            collector.issued_mark.eq(compute.output_mark),
            collector.output_valid.eq(array.output_valid),
            collector.output.eq(array.output),
            ram.collect.enable.eq(collector.write_enable),
            ram.collect.write.eq(collector.write),
        ]

        # ---- start, stop, counters --------------------------------------------------------------
        running = Signal()
        idle = Signal()
        stop = Signal()
        begin = Signal()
        progress = Signal()
        m.d.comb += [
            dispatch.idle.eq(idle),
            dispatch.start.eq(begin),
            compute.restart.eq(begin),
            counters.start.eq(begin),
            counters.running.eq(running),
            counters.issued.eq(compute.issued),
            counters.active.eq(compute.active),
            counters.waits_load.eq(dispatch.waiting[Queue.LOAD]),
            counters.waits_compute.eq(dispatch.waiting[Queue.COMPUTE]),
            counters.waits_store.eq(dispatch.waiting[Queue.STORE]),
            counters.outputs_pending.eq(~collector.empty),
            counters.loader_busy.eq(loader.busy),
            counters.loader_activations.eq(loader.busy_activations),
            counters.storer_busy.eq(storer.busy),
            counters.mark.eq(collector.marked),
            counters.trace_index.eq(registers.trace_index),
            registers.cycles.eq(counters.cycles),
            registers.trace_count.eq(counters.trace_count),
            registers.trace_data.eq(counters.trace_data),
        ]
        for cause in Cause:
            m.d.comb += registers.causes[cause].eq(counters.cause_count[cause])
        for unit in (reader, writer, loader, storer):
            m.d.comb += unit.stop.eq(stop)
        m.d.comb += progress.eq(
            compute.issued
            | collector.output_valid
            | (self.m_axi_rvalid & self.m_axi_rready)
            | (self.m_axi_wvalid & self.m_axi_wready)
            | (self.m_axi_bvalid & self.m_axi_bready)
            | dispatch.retired.any()
        )

        fault = Signal(ErrorCode)
        with m.If(dispatch.error != ErrorCode.NONE):
            m.d.comb += fault.eq(dispatch.error)
        with m.Elif(compute.illegal):
            m.d.comb += fault.eq(ErrorCode.ILLEGAL_FIELD)
        for unit in (loader, storer, reader, writer):
            with m.If(unit.error.valid):
                m.d.comb += fault.eq(unit.error.code)
        failing = Signal()
        m.d.comb += failing.eq(
            (dispatch.error != ErrorCode.NONE)
            | compute.illegal
            | Cat(unit.error.valid for unit in (loader, storer, reader, writer)).any()
        )
        quiet = Signal()
        m.d.comb += quiet.eq(reader.idle & writer.idle)
        states = (begin, running, idle, stop, flush)
        self._lifecycle(m, registers, dispatch, failing, fault, quiet, progress, states)
        return m

    def _lifecycle(self, m, registers, dispatch, failing, fault, quiet, progress, states) -> None:
        """IDLE, RUN, and after an error STOP (let the bus finish) and FLUSH (reset the units).

        `idle`, `stop` and `flush` go everywhere, so they are registers that follow the state."""
        begin, running, idle, stop, flush = states
        limit = self._config.watchdog_cycles
        patience = Signal(range(limit + 1))
        flush_left = Signal(range(FLUSH_CYCLES), init=FLUSH_CYCLES - 1)
        asked = Signal()  # started while flushing
        progressed = Signal()
        with m.If(registers.start):
            m.d.sync += asked.eq(1)
        with m.FSM(init="FLUSH"):
            with m.State("IDLE"):
                with m.If(registers.start | asked):
                    m.d.comb += begin.eq(1)
                    m.d.sync += [
                        asked.eq(0),
                        registers.done.eq(0),
                        registers.error.eq(ErrorCode.NONE),
                        patience.eq(limit),
                        idle.eq(0),
                    ]
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += running.eq(1)
                m.d.sync += [patience.eq(patience - 1), asked.eq(0)]
                m.d.sync += progressed.eq(progress)
                # Kept from here on: the reset after an error clears dispatch.
                m.d.sync += registers.error_line.eq(dispatch.dispatched)
                with m.If(progressed):  # looked at a cycle late
                    m.d.sync += patience.eq(limit - 1)
                with m.If(failing):
                    m.d.sync += [registers.error.eq(fault), patience.eq(limit), stop.eq(1)]
                    m.next = "STOP"
                with m.Elif((patience == 0) & ~progressed):
                    m.d.sync += [registers.error.eq(ErrorCode.TIMEOUT), patience.eq(limit)]
                    m.d.sync += stop.eq(1)
                    m.next = "STOP"
                with m.Elif(dispatch.finished & quiet):
                    m.d.sync += [registers.done.eq(1), idle.eq(1)]
                    m.next = "IDLE"
            with m.State("STOP"):
                m.d.comb += running.eq(1)
                m.d.sync += [patience.eq(patience - 1), asked.eq(0)]
                with m.If(quiet):
                    m.d.sync += [stop.eq(0), flush.eq(1)]
                    m.next = "FLUSH"
                with m.Elif(patience == 0):
                    m.next = "HUNG"
            with m.State("HUNG"):  # the bus owes responses: report, and wait for them
                m.d.sync += asked.eq(0)
                with m.If(quiet):
                    m.d.sync += [stop.eq(0), flush.eq(1)]
                    m.next = "FLUSH"
            with m.State("FLUSH"):
                m.d.sync += flush_left.eq(flush_left - 1)
                with m.If(flush_left == 0):
                    m.d.sync += [flush_left.eq(FLUSH_CYCLES - 1), flush.eq(0), idle.eq(1)]
                    m.next = "IDLE"
        m.d.comb += registers.busy.eq(running | asked | registers.start)
