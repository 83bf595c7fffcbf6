# SPDX-License-Identifier: Apache-2.0
"""A column of the array: one output channel at a time, with its own weights and parameters."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal, unsigned
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from . import dot_product, residual
from .carry import accumulate, check_target
from .config import PARAMETER_WORD_BITS, CoreConfig
from .delay import delayed
from .dot_product import DotProduct
from .isa import STEP_SLOTS, Mode
from .ram import RAM_ATTRIBUTES
from .requantizer import (
    ACCUMULATOR_BITS,
    SUM_LATENCY,
    Requantizer,
    parameters_layout,
    requantizer_latency,
)
from .residual import ResidualSum
from .streams import (
    CONSTANT_WORDS,
    LoadTarget,
    load_write_layout,
    parameter_read_layout,
    weight_read_layout,
)
from .taps import Maximum, Taps, tap_lanes

WRITE_BITS = 32
"""Bits of a weight row that one load write fills."""


def column_control_layout() -> data.StructLayout:
    """An array step, decoded once for all columns."""
    return data.StructLayout(
        {
            "mac": 1,
            "first": 1,
            "complete": 1,  # mac and last
            "swap": 1,  # complete and swap
            "shift": 1,
            "phase": 1,
            "load": 1,  # the picks become the taps
            "use_taps": 1,  # the taps replace the operands of the first lanes
            "wide": 1,  # 8-bit weights
            "narrow": 1,  # 2-bit weights
            "maximum": 1,
            "picked": STEP_SLOTS,
            "seed": 1,  # the taps loaded become the seed
        }
    )


def decode_step(m: Module, step: data.View) -> data.View:
    """`column_control_layout` of an `array_step_layout`."""
    control = Signal(column_control_layout())
    mode = step.mode
    m.d.comb += [
        control.mac.eq(step.mac),
        control.first.eq(step.first),
        control.complete.eq(step.mac & step.last),
        control.swap.eq(step.mac & step.last & step.swap),
        control.shift.eq(step.shift),
        control.phase.eq(step.phase),
        control.load.eq(
            (step.mac & ((mode == Mode.DEPTHWISE) | (mode == Mode.MAXIMUM))) | step.seed
        ),
        control.use_taps.eq((mode == Mode.DEPTHWISE) | (mode == Mode.WINDOW)),
        control.wide.eq((mode != Mode.DENSE4) & (mode != Mode.DENSE2)),
        control.narrow.eq(mode == Mode.DENSE2),
        control.maximum.eq(mode == Mode.MAXIMUM),
        control.picked.eq(step.picked),
        control.seed.eq(step.seed),
    ]
    return control


def chain_layout(config: CoreConfig) -> data.StructLayout:
    """What every column needs alike, handed from column to column, one register each.

    With 4-bit slices, `extra_picks` are the words of a step that have no slice to travel on.
    """
    lanes = data.ArrayLayout(unsigned(8), config.lanes)
    members = {
        "control": column_control_layout(),
        "operands": data.ArrayLayout(lanes, config.slices),
        "weight_read": weight_read_layout(),
        "parameter_read": parameter_read_layout(),
        "load": load_write_layout(config),
    }
    if config.slices < STEP_SLOTS:
        columns = data.ArrayLayout(unsigned(8), config.columns)
        members["extra_picks"] = data.ArrayLayout(columns, STEP_SLOTS - config.slices)
    return data.StructLayout(members)


SWAP_CYCLE = 1 + dot_product.LATENCY + 1
"""Cycle in which the accumulator is complete and its parameters are first read."""


def residual_cycle(config: CoreConfig) -> int:
    """Cycle in which the residual byte arrives; it is used in the one after it."""
    return SWAP_CYCLE + requantizer_latency(config)


RESIDUAL_CYCLES = residual.LATENCY + SUM_LATENCY
"""Cycles that a residual adds to an output's way: it passes the requantizer's shifter once more. So
two outputs with residuals must not come just that many cycles apart."""


def column_latency(config: CoreConfig) -> int:
    """Cycles from a step that ends an output to the output, if there is no residual."""
    return SWAP_CYCLE + requantizer_latency(config)


def constants_layout() -> data.StructLayout:
    """`CONSTANT_WORDS` in registers."""
    return data.StructLayout({f"word{i}": layout for i, layout in enumerate(CONSTANT_WORDS)})


class Stage(wiring.Component):
    """What columns that work at the same time share: the registers of the chain and the constants.

    Members
    -------
    entering : from the previous stage
    chain : the same a cycle later, for the columns and the next stage
    constants : see `constants_layout`, a cycle after their load write is in `chain`
    """

    def __init__(self, config: CoreConfig) -> None:
        super().__init__(
            {
                "entering": In(chain_layout(config)),
                "chain": Out(chain_layout(config)),
                "constants": Out(constants_layout()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        chain = Signal.like(self.chain, name="chain", reset_less=True)
        m.d.sync += chain.eq(self.entering)
        m.d.comb += self.chain.eq(chain)
        load = chain.load
        for i, layout in enumerate(CONSTANT_WORDS):
            word = Signal(layout, name=f"constants{i}", reset_less=True)
            here = load.valid & (load.target == LoadTarget.CONSTANTS) & (load.address[:2] == i)
            with m.If(here):
                m.d.sync += word.eq(load.data)
            m.d.comb += self.constants[f"word{i}"].eq(word)
        return m


def column_signature(config: CoreConfig) -> wiring.Signature:
    """Ports of a `Column`."""
    return wiring.Signature(
        {
            "entering": In(column_control_layout()),
            "chain": In(chain_layout(config)),
            "constants": In(constants_layout()),
            "picks": In(data.ArrayLayout(unsigned(8), STEP_SLOTS)),
            "residual": In(8),
            "index": In(range(config.columns)),
            "output": Out(8),
        }
    )


class Column(wiring.Component):
    """Weight RAM, dot product, accumulator, requantizer and residual sum of one output channel.

    Everything that enters comes from its stage or is registered first, and everything that leaves
    comes from a register. No register but the RAMs' content outlives the outputs under way, so none
    has a reset.

    Cycles are counted from the control and operands of a step as they enter the stage: the weight
    row must have been presented `WEIGHT_LEAD` cycles before them, parameter words are in the shadow
    registers `PARAMETER_CYCLES` cycles after they are presented, and are read from them in
    `SWAP_CYCLE` and the cycle after it, counted from a step that swaps.

    Members
    -------
    entering : control that enters the stage; chain, constants : from the stage
    picks : this column's byte of each word, with the operands
    residual : residual byte, `residual_cycle` cycles after the step that ends an output
    index : number of the column, constant
    output : result, `column_latency` cycles after the step that ends it; with the constant
        `residual` `RESIDUAL_CYCLES` later still
    """

    WEIGHT_LEAD = 2
    PARAMETER_CYCLES = 3

    def __init__(self, config: CoreConfig, target: str = "generic") -> None:
        self._config = config
        self._target = check_target(target)
        super().__init__(column_signature(config))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        stage = self.chain
        constants = [self.constants[f"word{i}"] for i in range(len(CONSTANT_WORDS))]
        weights = self._weights(m, stage.load, stage.weight_read)
        parameters = self._parameters(m, stage.load, stage.parameter_read)
        accumulator = self._accumulator(m, stage, weights, constants[0].unseeded)
        control = stage.control
        clamps, output_add, residual_add, constant_add = constants
        requantized = residual_cycle(self._config)
        complete = delayed(
            m, control.complete & clamps.residual, requantized + residual.LATENCY - 1, "complete"
        )
        swap = delayed(m, control.swap, SWAP_CYCLE - 1, "swap")

        m.submodules.requantizer = requantizer = Requantizer(self._config, self._target)
        m.submodules.residual_sum = residual_sum = ResidualSum(self._target)
        residual_byte = Signal(8, reset_less=True)
        m.d.sync += residual_byte.eq(self.residual)
        m.d.comb += [
            requantizer.accumulator.eq(accumulator),
            requantizer.swap.eq(swap[-1]),
            requantizer.parameters.eq(parameters),
            requantizer.low.eq(clamps.low),
            requantizer.high.eq(clamps.high),
            requantizer.wrap.eq(clamps.wrap),
            requantizer.half_even.eq(clamps.half_even),
            requantizer.parity.eq(clamps.output_parity),
            requantizer.take_sum.eq(complete[-1]),
            requantizer.sum.eq(residual_sum.sum),
            requantizer.sum_shift.eq(residual_add.add_shift),
            requantizer.sum_low.eq(residual_add.add_low),
            requantizer.sum_high.eq(output_add.add_high),
            residual_sum.output.eq(requantizer.result),
            residual_sum.valid.eq(complete[requantized - 1]),
            residual_sum.residual.eq(residual_byte),
            residual_sum.output_multiplier.eq(output_add.add_output_multiplier),
            residual_sum.residual_multiplier.eq(residual_add.add_residual_multiplier),
            residual_sum.constant.eq(constant_add.add_constant),
            self.output.eq(requantizer.result),
        ]
        return m

    def _weights(self, m: Module, load: data.View, read: data.View) -> data.View:
        """The weight row read, one cycle after the RAM's output."""
        config = self._config
        m.submodules.weights = ram = memory.Memory(
            shape=8 * config.lanes, depth=config.weight_rows, init=[], attrs=RAM_ATTRIBUTES
        )
        write_port = ram.write_port(granularity=WRITE_BITS)
        read_port = ram.read_port()
        here = load.valid & (load.target == LoadTarget.WEIGHTS) & (load.column == self.index)
        chunks = 8 * config.lanes // WRITE_BITS
        row = Signal(
            data.ArrayLayout(unsigned(8), config.lanes), name="weight_row", reset_less=True
        )
        m.d.comb += [
            write_port.addr.eq(load.address),
            write_port.data.eq(load.data[:WRITE_BITS].replicate(chunks)),
            read_port.addr.eq(read.row),
            read_port.en.eq(read.enable),
        ]
        m.d.comb += [write_port.en[i].eq(here & (load.chunk == i)) for i in range(chunks)]
        m.d.sync += row.eq(read_port.data)
        return row

    def _parameters(self, m: Module, load: data.View, read: data.View) -> data.View:
        """The shadow parameters: words read shift in from the top, so after a group's last one
        they are in place."""
        config = self._config
        m.submodules.parameters = ram = memory.Memory(
            shape=PARAMETER_WORD_BITS, depth=config.parameter_words, init=[], attrs=RAM_ATTRIBUTES
        )
        write_port, read_port = ram.write_port(), ram.read_port()
        here = load.valid & (load.target == LoadTarget.PARAMETERS) & (load.column == self.index)
        m.d.comb += [
            write_port.addr.eq(load.address),
            write_port.data.eq(load.data),
            write_port.en.eq(here),
            read_port.addr.eq(read.address),
            read_port.en.eq(read.enable),
        ]
        arrived = delayed(m, read.enable, 1, "parameter_arrived")[-1]
        shadow = Signal(parameters_layout(config), reset_less=True)
        bits = shadow.as_value()
        with m.If(arrived):
            m.d.sync += bits.eq((read_port.data << len(bits) | bits) >> PARAMETER_WORD_BITS)
        return shadow

    def _accumulator(
        self, m: Module, stage: data.View, weights: data.View, unseeded: Signal
    ) -> Signal:
        config, control = self._config, stage.control
        entering = self.entering
        m.submodules.taps = taps = Taps(config)
        m.submodules.dot = dot = DotProduct(config, tap_lanes(config), self._target)
        m.submodules.maximum = maximum = Maximum()
        m.d.comb += [
            # The taps are registers beside those of the chain, not behind them.
            taps.picks.eq(self.picks),
            taps.picked.eq(entering.picked),
            taps.load.eq(entering.load),
            taps.shift.eq(entering.shift),
            taps.phase.eq(control.phase),
            dot.operands.eq(stage.operands),
            dot.taps.eq(taps.taps),
            dot.weights.eq(weights),
            dot.use_taps.eq(control.use_taps),
            dot.wide.eq(control.wide),
            dot.narrow.eq(control.narrow),
            dot.clear.eq(control.maximum),
            maximum.words.eq(taps.words),
            maximum.use.eq(control.mac),
            maximum.first.eq(control.first),
            maximum.enable.eq(control.maximum),
        ]
        mac = delayed(m, control.mac, dot_product.LATENCY, "mac")[-1]
        # In MAXIMUM mode the running maximum takes the sum's place and nothing is accumulated. A
        # seed's lowest byte comes this way too and meets its upper bytes here.
        first = control.first | control.maximum
        keep = ~delayed(m, first, dot_product.LATENCY, "first")[-1]
        seed = Signal(ACCUMULATOR_BITS - len(maximum.maximum), reset_less=True)
        with m.If(control.seed):
            m.d.sync += seed.eq(Cat(*taps.words[1:]))
        with m.If(unseeded):
            m.d.sync += seed.eq(0)
        accumulator = Signal(ACCUMULATOR_BITS, reset_less=True)
        total = accumulate(
            m,
            self._target,
            Cat(dot.total, dot.total[-1].replicate(ACCUMULATOR_BITS - len(dot.total))),
            maximum.maximum,
            keep,
            accumulator,
            seed,
            "accumulator_sum",
        )
        with m.If(mac):
            m.d.sync += accumulator.eq(total)
        return accumulator
