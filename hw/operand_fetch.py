# SPDX-License-Identifier: Apache-2.0
"""From the addresses of a step to the operands of the array.

Pipeline, in cycles after a micro-operation arrives: 1 bank select, 2-3 activation RAM, 4 word
select (padding, merging), after which operands and control reach the array together. Never stalls.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .activation_ram import BANK_BITS, BANK_READ_LAYOUT
from .choose import choose
from .config import ACTIVATION_BANKS, CoreConfig
from .isa import ADDRESS_BITS, STEP_SLOTS, Mode
from .pixel_walk import part_shape
from .streams import array_step_layout, parameter_read_layout, weight_read_layout

STAGES = 4
"""Cycles from `operation` to `step`."""


def operation_layout(config: CoreConfig) -> data.StructLayout:
    """What the issue stage decided for one cycle: array control, weight row, word addresses."""
    return data.StructLayout(
        {
            "mac": 1,
            "first": 1,
            "last": 1,
            "swap": 1,
            "shift": 1,
            "phase": 1,
            "mode": Mode,
            "seed": 1,
            "weight_row": unsigned(12),
            "parameter": parameter_read_layout(),
            "valid": data.ArrayLayout(unsigned(1), STEP_SLOTS),
            "inside": data.ArrayLayout(unsigned(1), STEP_SLOTS),
            "address": data.ArrayLayout(unsigned(ADDRESS_BITS), STEP_SLOTS),
            "padding": unsigned(8),
            "merge": 1,
            "merge_bounds": data.ArrayLayout(unsigned(5), 3),
            "part": part_shape(config),
            "residual_read": 1,
            "residual_address": unsigned(ADDRESS_BITS),
        }
    )


class OperandFetch(wiring.Component):
    """Banks, word select and operand routing.

    Members
    -------
    operation : one a cycle
    bank_read, bank_data : activation RAM, data two cycles after the read
    weight_read, parameter_read, step, operands, picks, residual : the array's inputs; `weight_read`
        comes `weight_lead` cycles before the `step` it belongs to
    """

    def __init__(self, config: CoreConfig, weight_lead: int) -> None:
        if not 0 <= weight_lead < STAGES:
            raise ValueError(f"weight_lead must be 0 to {STAGES - 1}, not {weight_lead}")
        self._config = config
        self._weight_lead = weight_lead
        word = data.ArrayLayout(unsigned(8), config.lanes)
        super().__init__(
            {
                "operation": In(operation_layout(config)),
                "bank_read": Out(data.ArrayLayout(BANK_READ_LAYOUT, ACTIVATION_BANKS)),
                "bank_data": In(data.ArrayLayout(word, ACTIVATION_BANKS)),
                "weight_read": Out(weight_read_layout()),
                "parameter_read": Out(parameter_read_layout()),
                "step": Out(array_step_layout(config)),
                "operands": Out(data.ArrayLayout(word, config.slices)),
                "picks": Out(
                    data.ArrayLayout(data.ArrayLayout(unsigned(8), config.columns), STEP_SLOTS)
                ),
                "residual": Out(data.ArrayLayout(unsigned(8), config.columns)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        stages = [self.operation]
        for i in range(1, STAGES + 1):
            stage = Signal(operation_layout(self._config), name=f"operation{i}", reset_less=True)
            m.d.sync += stage.eq(stages[-1])
            stages.append(stage)
        self._bank_select(m, stages[0])
        self._word_select(m, stages[2])
        final = stages[STAGES]
        self._residual(m, stages[3])
        early = stages[STAGES - self._weight_lead]
        m.d.comb += [
            self.weight_read.enable.eq(early.mac),
            self.weight_read.row.eq(early.weight_row),
            self.parameter_read.eq(final.parameter),
            self.step.picked.eq(Cat(*final.valid)),
        ]
        for name in ("mac", "first", "last", "swap", "shift", "phase", "mode", "seed"):
            m.d.comb += getattr(self.step, name).eq(getattr(final, name))
        return m

    def _bank_select(self, m: Module, operation: data.View) -> None:
        """Stage 1: the first slot that wants a bank gets it; a residual read takes a free one."""
        for bank in range(ACTIVATION_BANKS):
            read = self.bank_read[bank]
            enable = Signal(name=f"bank{bank}_enable")
            row = Signal(ADDRESS_BITS - BANK_BITS, reset_less=True, name=f"bank{bank}_row")
            m.d.comb += [read.enable.eq(enable), read.row.eq(row)]
            wants = [
                operation.valid[j] & operation.inside[j] & (operation.address[j][:2] == bank)
                for j in range(STEP_SLOTS)
            ]
            residual = operation.residual_read & (operation.residual_address[:2] == bank)
            m.d.sync += enable.eq(Cat(*wants, residual).any())
            m.d.sync += row.eq(operation.residual_address[BANK_BITS:])
            for j in reversed(range(STEP_SLOTS)):
                with m.If(wants[j]):
                    m.d.sync += row.eq(operation.address[j][BANK_BITS:])

    def _word_select(self, m: Module, operation: data.View) -> None:
        """Stage 4: bring each slice the bytes of its slots. `operation` is the one whose data will
        be in `bank_data` a cycle later, so that the selects of every lane come from registers.

        In DENSE2, and where columns pick bytes, slice k gets slot k; otherwise slices share words.
        """
        config = self._config
        padding = Signal(8, reset_less=True)
        m.d.sync += padding.eq(operation.padding)
        banks = [operation.address[j][:BANK_BITS] for j in range(STEP_SLOTS)]
        words = [
            Signal(data.ArrayLayout(unsigned(8), config.lanes), name=f"word{k}", reset_less=True)
            for k in range(STEP_SLOTS)
        ]
        for lane in range(config.lanes):
            first, low, high = self._merged_slots(m, operation, lane)
            for k, word in enumerate(words):
                slot = Signal(2, name=f"word{k}_lane{lane}_slot")
                m.d.comb += slot.eq(k)
                if k < config.slices:
                    with m.If(operation.mode == Mode.DENSE8):
                        m.d.comb += slot.eq(first)
                    with m.If(operation.mode == Mode.DENSE4):
                        m.d.comb += slot.eq(low if k < config.slices // 2 else high)
                bank = Signal(BANK_BITS, reset_less=True, name=f"word{k}_lane{lane}_bank")
                inside = Signal(reset_less=True, name=f"word{k}_lane{lane}_inside")
                m.d.sync += [
                    bank.eq(choose(slot, dict(enumerate(banks)))),
                    inside.eq(choose(slot, dict(enumerate(operation.inside)))),
                ]
                value = choose(bank, {b: self.bank_data[b][lane] for b in range(ACTIVATION_BANKS)})
                m.d.sync += word[lane].eq(Mux(inside, value, padding))
        final_part = Signal(part_shape(config), reset_less=True)
        part = Signal(part_shape(config), reset_less=True)
        m.d.sync += [part.eq(operation.part), final_part.eq(part)]
        for k in range(config.slices):
            m.d.comb += self.operands[k].eq(words[k])
        for j in range(STEP_SLOTS):
            m.d.comb += self.picks[j].eq(_part(words[j], final_part, config))

    def _merged_slots(self, m: Module, operation: data.View, lane: int) -> tuple[Signal, ...]:
        """Slot that feeds a lane of the word in DENSE8, and of the two words in DENSE4."""
        bounds = operation.merge_bounds
        first, low, high = (Signal(2, name=f"{n}_lane{lane}") for n in ("first", "low", "high"))
        m.d.comb += [first.eq(0), low.eq(0), high.eq(1)]
        with m.If(operation.merge):
            beyond = [lane >= bounds[i] for i in range(3)]
            m.d.comb += [
                first.eq(Mux(beyond[2], 3, Mux(beyond[1], 2, beyond[0]))),
                low.eq(beyond[0]),
                high.eq(Mux(beyond[2], 3, 2)),
            ]
        return first, low, high

    def _residual(self, m: Module, operation: data.View) -> None:
        """Hold the residual word until the step that ends its pixel."""
        bank = operation.residual_address[:BANK_BITS]
        word = choose(bank, {b: self.bank_data[b].as_value() for b in range(ACTIVATION_BANKS)})
        with m.If(operation.residual_read):
            m.d.sync += self.residual.eq(_part(word, operation.part, self._config))


def _part(word, part, config: CoreConfig):
    """The `columns` bytes of a word that belong to one output group."""
    value = word.as_value() if isinstance(word, data.View) else word
    return value.word_select(part, 8 * config.columns)
