# SPDX-License-Identifier: Apache-2.0
"""The array: columns side by side, fed through one another."""

from __future__ import annotations

from amaranth.back import verilog
from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from . import dot_product
from .carry import check_target
from .column import (
    RESIDUAL_CYCLES,
    SWAP_CYCLE,
    Column,
    Stage,
    chain_layout,
    column_latency,
    column_signature,
    decode_step,
    residual_cycle,
)
from .config import CoreConfig
from .delay import DelayLine, delayed
from .isa import STEP_SLOTS
from .requantizer import Requantizer
from .streams import (
    CONSTANT_WORDS,
    LoadTarget,
    array_step_layout,
    load_write_layout,
    parameter_read_layout,
    weight_read_layout,
)

COLUMNS_A_STAGE = 2
"""Neighbours that work at the same time and share a `Stage`: fewer registers and a shorter way to
the last column than with one; more of them would make every net that feeds them longer."""


def array_latency(config: CoreConfig, residual: bool) -> int:
    """Cycles from a step with `last` to its output, with or without a residual."""
    last = _stage(config.columns - 1)
    return column_latency(config) + last + (RESIDUAL_CYCLES if residual else 0)


def column_verilog(config: CoreConfig, target: str, name: str) -> str:
    """Verilog of a column as module `name`, for `Array`'s `column_module`."""
    column = Column(config, target)
    return verilog.convert(column, name=name, emit_src=False, strip_internal_attrs=True)


class Array(wiring.Component):
    """`columns` columns. Each pair works a cycle after the one before; the skew is undone inside,
    so all ports are as if every column worked at the same time.

    Nothing stalls. Any cycle may carry a step, and beside it a load write and a parameter read.

    * The weight row of a step is presented `WEIGHT_LEAD` cycles before the step; without
      `weight_read.enable` the row read last stays.
    * The words of a parameter group are presented one a cycle, in order, the last at most
      `PARAMETER_LEAD` cycles before the step (`last`, `swap`) from whose output on they are used,
      and the next group's words in cycles after that step.
    * Constants (`LoadTarget.CONSTANTS`) may change only while no output is under way.
    * A step with `seed` notes the upper bytes of the next seed; a MAXIMUM step brings its lowest
      byte, and the steps that follow it may be of a DENSE mode and go on from the seed. The next
      step with `seed` comes at least `SEED_STEPS` cycles after that. With the constant `unseeded`
      the upper bytes are 0.
    * With the constant `residual`, steps with `last` come at least two cycles apart, and no two of
      them `RESIDUAL_CYCLES` apart.
    * In DEPTHWISE, WINDOW and MAXIMUM, lanes without a tap must have weight 0: lanes from 4 on in
      DEPTHWISE, from `window_taps` on in WINDOW, from 1 on in its phase 1.

    All columns are the same hardware: with `column_module` they are instances of a module of that
    name, whose Verilog is made apart (`column_verilog`), once instead of `columns` times.

    Members
    -------
    load : write to a weight RAM, a parameter RAM or the constants, `load_latency` cycles until it
        has reached the last column
    weight_read : row for the step `WEIGHT_LEAD` cycles later
    parameter_read : word to append to the next group's parameters
    step : control of this cycle; `first`, `last`, `swap` count only with `mac`
    operands : word of each slice, with `step`; in DENSE8 the same word for all, in DENSE4 one for
        each half. Not used in the other modes
    picks : for DEPTHWISE, WINDOW and MAXIMUM, byte c of word j for column c, with `step`
    residual : byte c is added to the output of column c, with the step that has `last`
    output_valid, output : an output of each column, `array_latency` cycles after its `last`
    """

    WEIGHT_LEAD = Column.WEIGHT_LEAD
    PARAMETER_LEAD = Requantizer.PARAMETER_CYCLES - 1
    SEED_STEPS = dot_product.LATENCY
    RESIDUAL_CYCLES = RESIDUAL_CYCLES

    def __init__(
        self, config: CoreConfig, target: str = "generic", column_module: str | None = None
    ) -> None:
        self._config = config
        self._column_module = column_module
        self._target = check_target(target)
        columns = data.ArrayLayout(unsigned(8), config.columns)
        lanes = data.ArrayLayout(unsigned(8), config.lanes)
        super().__init__(
            {
                "load": In(load_write_layout(config)),
                "weight_read": In(weight_read_layout()),
                "parameter_read": In(parameter_read_layout()),
                "step": In(array_step_layout(config)),
                "operands": In(data.ArrayLayout(lanes, config.slices)),
                "picks": In(data.ArrayLayout(columns, STEP_SLOTS)),
                "residual": In(columns),
                "output_valid": Out(1),
                "output": Out(columns),
            }
        )

    @property
    def load_latency(self) -> int:
        """Cycles from a load write until a read presented sees it, in every column."""
        return 1

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        columns = [self._column(m, c) for c in range(config.columns)]
        self._chain(m, columns)
        self._delay_residual(m, columns)
        self._align_outputs(m, columns)
        return m

    def _column(self, m: Module, index: int) -> wiring.PureInterface | Column:
        """Ports of a column, an instance of `column_module` if there is one."""
        column: wiring.PureInterface | Column
        if self._column_module is None:
            m.submodules[f"column{index}"] = column = Column(self._config, self._target)
        else:
            signature = column_signature(self._config)
            column = signature.create(path=(f"column{index}",))
            ports = {
                f"{'o' if member.flow is Out else 'i'}_{name}": getattr(column, name)
                for name, member in signature.members.items()
            }
            # No register of a column has a reset.
            m.submodules[f"column{index}"] = Instance(
                self._column_module, i_clk=ClockSignal(), i_rst=Const(0), **ports
            )
        m.d.comb += column.index.eq(Const(index, range(self._config.columns)))
        return column

    def _chain(self, m: Module, columns: list) -> None:
        config = self._config
        control = decode_step(m, self.step)
        # The last word of a group may be presented `PARAMETER_LEAD` cycles before the swap and the
        # first of the next one cycle after it; with this delay both meet the cycles in which the
        # requantizer reads the shadow parameters.
        delay = SWAP_CYCLE + self.PARAMETER_LEAD - Column.PARAMETER_CYCLES
        link = Signal(chain_layout(config), name="column0_chain")
        m.d.comb += [
            link.control.eq(control),
            link.weight_read.eq(self.weight_read),
            link.parameter_read.eq(delayed(m, self.parameter_read, delay, "parameter_read")[-1]),
            link.load.eq(self.load),
        ]
        own_picks = control.load | control.use_taps
        # A pick travels on lane c of the slice of its word, where there is one.
        for k in range(config.slices):
            picked_word = Cat(*self.picks[k], *self.operands[k][config.columns :])
            m.d.comb += link.operands[k].eq(
                Mux(own_picks, picked_word, self.operands[k].as_value())
            )
        for j in range(config.slices, STEP_SLOTS):
            m.d.comb += link.extra_picks[j - config.slices].eq(self.picks[j])
        for first in range(0, config.columns, COLUMNS_A_STAGE):
            stage = Stage(config)
            m.submodules[f"stage{_stage(first)}"] = stage
            m.d.comb += stage.entering.eq(link)
            words = [*link.operands, *(link.extra_picks if config.slices < STEP_SLOTS else [])]
            for c in range(first, first + COLUMNS_A_STAGE):
                m.d.comb += [
                    columns[c].entering.eq(link.control),
                    columns[c].chain.eq(stage.chain),
                    columns[c].constants.eq(stage.constants),
                    *(columns[c].picks[j].eq(words[j][c]) for j in range(STEP_SLOTS)),
                ]
            link = stage.chain

    def _delay_residual(self, m: Module, columns: list) -> None:
        """Delay the residual until column 0 wants it, and further columns as they work."""
        cycles = residual_cycle(self._config)
        m.submodules.residual_delay = line = DelayLine(8 * self._config.columns, cycles)
        m.d.comb += line.value.eq(self.residual)
        for c, column in enumerate(columns):
            byte = line.delayed.word_select(c, 8)
            m.d.comb += column.residual.eq(delayed(m, byte, _stage(c), f"residual{c}")[-1])

    def _align_outputs(self, m: Module, columns: list) -> None:
        """Undo the skew. The array knows only from the constants when an output is due: a residual
        makes it later, and constants change only while none is under way."""
        load = self.load
        has_residual = Signal(reset_less=True)
        with m.If(load.valid & (load.target == LoadTarget.CONSTANTS) & (load.address[:2] == 0)):
            m.d.sync += has_residual.eq(data.View(CONSTANT_WORDS[0], load.data).residual)
        valid: list[Value] = [self.step.mac & self.step.last]

        def delay_valid(value: Value) -> None:
            valid.append(Signal(name=f"output_valid_{len(valid)}"))
            m.d.sync += valid[-1].eq(value)

        for _ in range(array_latency(self._config, residual=False) - 1):
            delay_valid(valid[-1])
        soon = valid[-1]
        for _ in range(RESIDUAL_CYCLES):
            delay_valid(valid[-1] & has_residual)
        m.d.sync += self.output_valid.eq(Mux(has_residual, valid[-1], soon))
        last = _stage(self._config.columns - 1)
        for c, column in enumerate(columns):
            byte = delayed(m, column.output, last - _stage(c), f"output{c}")[-1]
            m.d.comb += self.output[c].eq(byte)


def _stage(column: int) -> int:
    """Cycles that a column works after column 0."""
    return column // COLUMNS_A_STAGE
