# SPDX-License-Identifier: Apache-2.0
"""PLL cells from `pll.PllSettings`, and reset until their clock is good."""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.hdl import Const, Instance, Module, Signal, Value
from amaranth.lib import cdc, wiring
from amaranth.lib.wiring import In, Out

from .pll import EHXPLLL, PllSettings

RESET_CYCLES = 64
"""Of reset, at least."""


@dataclass(frozen=True)
class PllSignals:
    """What a PLL joins: the clock it gets, and what it makes."""

    source: Value
    main: Signal
    shifted: Signal
    """`main`, delayed."""
    locked: Signal


def add_pll(m: Module, settings: PllSettings, part: str, signals: PllSignals) -> None:
    """The cell of `settings` in the FPGA called `part`."""
    if settings.limits is EHXPLLL:
        _add_ehxplll(m, settings, signals)
    else:
        _add_rpll(m, settings, part, signals)


def _add_ehxplll(m: Module, settings: PllSettings, signals: PllSignals) -> None:
    # The oscillator is fed back through an output of its own, so that its frequency need not be a
    # multiple of the clock's. A phase of 0 is a counter that starts at the divider - 1.
    feedback = Signal()
    divider, zero = settings.divider, settings.divider - 1
    outputs = {
        "CLKOP": (divider, zero, 0),
        "CLKOS": (divider, zero + settings.phase // 8, settings.phase % 8),
        "CLKOS2": (settings.feedback, settings.feedback - 1, 0),
    }
    parameters: dict[str, object] = {}
    for name, (ratio, whole, eighths) in outputs.items():
        parameters |= {
            f"p_{name}_ENABLE": "ENABLED",
            f"p_{name}_DIV": ratio,
            f"p_{name}_CPHASE": whole,
            f"p_{name}_FPHASE": eighths,
        }
    for letter in "ABCD":
        parameters[f"p_OUTDIVIDER_MUX{letter}"] = f"DIV{letter}"
    for name in ("STDBY", "PHASESEL0", "PHASESEL1", "PHASEDIR", "PHASESTEP", "PHASELOADREG"):
        parameters[f"i_{name}"] = Const(0)
    m.submodules.pll = Instance(
        "EHXPLLL",
        ("a", "ICP_CURRENT", "12"),
        ("a", "LPF_RESISTOR", "8"),
        p_CLKI_DIV=settings.reference,
        p_CLKFB_DIV=1,
        p_FEEDBK_PATH="INT_OS2",
        p_CLKOS3_ENABLE="DISABLED",
        p_DPHASE_SOURCE="DISABLED",
        p_STDBY_ENABLE="DISABLED",
        p_PLLRST_ENA="DISABLED",
        p_INTFB_WAKE="DISABLED",
        **parameters,
        i_RST=Const(0),
        i_PLLWAKESYNC=Const(0),
        i_ENCLKOP=Const(0),
        i_CLKI=signals.source,
        i_CLKFB=feedback,
        o_CLKINTFB=feedback,
        o_CLKOP=signals.main,
        o_CLKOS=signals.shifted,
        o_LOCK=signals.locked,
    )


def _add_rpll(m: Module, settings: PllSettings, part: str, signals: PllSignals) -> None:
    rise = settings.phase
    fall = (rise + settings.steps // 2) % settings.steps
    parameters = {
        f"p_{name}": "false"
        for name in ("DYN_IDIV_SEL", "DYN_FBDIV_SEL", "DYN_ODIV_SEL", "DYN_DA_EN")
        + ("CLKOUT_BYPASS", "CLKOUTP_BYPASS", "CLKOUTD_BYPASS")
    }
    widths = {"FBDSEL": 6, "IDSEL": 6, "ODSEL": 6, "PSDA": 4, "DUTYDA": 4, "FDLY": 4}
    unused = {f"i_{name}": Const(0, width) for name, width in widths.items()}
    m.submodules.pll = Instance(
        "rPLL",
        p_FCLKIN=f"{settings.input_megahertz:g}",
        p_DEVICE=part,
        p_IDIV_SEL=settings.reference - 1,
        p_FBDIV_SEL=settings.feedback - 1,
        p_ODIV_SEL=settings.divider,
        p_PSDA_SEL=f"{rise:04b}",
        p_DUTYDA_SEL=f"{fall:04b}",
        p_CLKFB_SEL="internal",
        p_CLKOUT_FT_DIR=Const(1, 1),
        p_CLKOUTP_FT_DIR=Const(1, 1),
        p_CLKOUT_DLY_STEP=0,
        p_CLKOUTP_DLY_STEP=0,
        p_CLKOUTD3_SRC="CLKOUT",
        p_CLKOUTD_SRC="CLKOUT",
        p_DYN_SDIV_SEL=2,
        **parameters,
        **unused,
        i_RESET=Const(0),
        i_RESET_P=Const(0),
        i_CLKFB=Const(0),
        i_CLKIN=signals.source,
        o_CLKOUT=signals.main,
        o_CLKOUTP=signals.shifted,
        o_LOCK=signals.locked,
    )


class ResetControl(wiring.Component):
    """Holds reset until the clock has been good for `RESET_CYCLES`; in domain `always`, which has
    the same clock and no reset.

    Members
    -------
    locked : in, asynchronous: the clock is good
    request : in, asynchronous: someone wants a reset
    reset : out
    """

    def __init__(self) -> None:
        super().__init__({"locked": In(1), "request": In(1), "reset": Out(1, init=1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        good = Signal()
        m.submodules.synchronizer = cdc.FFSynchronizer(
            self.locked & ~self.request, good, o_domain="always"
        )
        left = Signal(range(RESET_CYCLES), init=RESET_CYCLES - 1)
        m.d.always += self.reset.eq(left != 0)
        with m.If(~good):
            m.d.always += left.eq(RESET_CYCLES - 1)
        with m.Elif(left != 0):
            m.d.always += left.eq(left - 1)
        return m
