# SPDX-License-Identifier: Apache-2.0
"""Dividers within the data sheets' limits, nearest to what was asked; the memory's clock phase."""

import itertools

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bitloop.boards.pll import (
    ECP5_PADS,
    EHXPLLL,
    GOWIN_PADS,
    RPLL,
    PllSettings,
    find_settings,
    phase_margins,
    with_memory_phase,
)
from bitloop.boards.sdram_chip import AS4C16M16SA_7, EMBEDDED_64M_X32
from bitloop.errors import DeviceError


@given(
    st.sampled_from([EHXPLLL, RPLL]),
    st.sampled_from([25.0, 27.0, 48.0]),
    st.floats(20, 150),
)
def test_settings_keep_the_limits(limits, source, asked):
    # The phase comparator's least frequency leaves gaps between an rPLL's ratios, wide near 1.
    assume(limits is not RPLL or asked >= 2 * source)
    settings = find_settings(limits, source, asked)
    settings.check()
    assert abs(settings.megahertz / asked - 1) <= 0.05


@pytest.mark.parametrize("limits", [EHXPLLL, RPLL], ids=lambda limits: limits.cell)
@pytest.mark.parametrize("asked", [33.3, 50, 77, 95])
def test_no_other_settings_are_nearer(limits, asked):
    found = find_settings(limits, 27, asked)
    dividers = [d for d in limits.divider if d <= 40]
    for reference, feedback, divider in itertools.product(range(1, 3), range(1, 65), dividers):
        other = PllSettings(limits, 27, reference, feedback, divider)
        try:
            other.check()
        except DeviceError:
            continue
        assert abs(found.megahertz - asked) <= abs(other.megahertz - asked) + 1e-6


@pytest.mark.parametrize("asked", [75, 80, 90, 95, 100])
def test_clocks_of_25_megahertz_boards_are_exact(asked):
    assert find_settings(EHXPLLL, 25, asked).megahertz == pytest.approx(asked)


def test_what_cannot_be_made_is_refused():
    with pytest.raises(DeviceError, match="cannot make 900 MHz"):
        find_settings(EHXPLLL, 25, 900)
    with pytest.raises(DeviceError, match="oscillator must run at 400 to 800"):
        PllSettings(EHXPLLL, 25, 1, 40, 10).check()
    with pytest.raises(DeviceError, match="phase comparator"):
        PllSettings(EHXPLLL, 25, 5, 100, 10).check()


@pytest.mark.parametrize(
    ("limits", "source", "asked", "chip", "pads"),
    [
        *((EHXPLLL, 25, asked, AS4C16M16SA_7, ECP5_PADS) for asked in (75, 80, 90, 95, 100)),
        *((RPLL, 27, asked, EMBEDDED_64M_X32, GOWIN_PADS) for asked in (50, 54, 60)),
    ],
)
def test_the_memory_gets_the_phase_with_most_margin(limits, source, asked, chip, pads):
    settings = with_memory_phase(find_settings(limits, source, asked), chip, pads)
    period = 1000 / settings.megahertz
    margins = phase_margins(chip, pads, period, settings.delay)
    assert min(margins.values()) >= 0.5
    for phase in range(settings.steps):
        delay = period * phase / settings.steps
        least = min(phase_margins(chip, pads, period, delay).values())
        assert least <= min(margins.values()) + 1e-9


def test_a_clock_too_fast_for_the_memory_is_refused():
    with pytest.raises(DeviceError, match="up to 100 MHz at CAS latency 2"):
        with_memory_phase(find_settings(EHXPLLL, 25, 110), AS4C16M16SA_7, ECP5_PADS)
