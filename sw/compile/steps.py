# SPDX-License-Identifier: Apache-2.0
"""Steps: what the array does in one cycle, how words are grouped into steps, and how runs of steps
become step-RAM entries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bitloop.hw.config import ACTIVATION_BANKS
from bitloop.hw.isa import ADDRESS_BITS, STEP, STEP_SLOTS

ADDRESS_MASK = (1 << ADDRESS_BITS) - 1
_FIELDS = {field.name: field for field in STEP.fields}
MAX_REPEAT = _FIELDS["repeat"].maximum
MIN_INCREMENT = _FIELDS["increment"].minimum
MAX_INCREMENT = _FIELDS["increment"].maximum


@dataclass(frozen=True)
class Word:
    """An activation word relative to the output pixel's origin."""

    dy: int
    dx: int
    offset: int
    """Words from the origin's address; its bank relative to the origin's is this modulo 4."""
    source: int = 0
    """Index of the weight that multiplies its first byte (depthwise: every byte)."""
    count: int = 0
    """Bytes that have weights, from byte 0; their weights are consecutive."""

    @property
    def bank(self) -> int:
        return self.offset % ACTIVATION_BANKS


@dataclass(frozen=True)
class Lanes:
    """Weights of consecutive lanes of one weight row: `digit` says which of the words that share
    the row's bytes they multiply, `source` where in the channel's weights they start."""

    digit: int
    lane: int
    source: int
    count: int


@dataclass(frozen=True)
class Step:
    """One cycle: up to four words, and what is done with them."""

    words: tuple[Word | None, ...]
    """By slot; shorter than four means the rest is not fetched."""
    lanes: tuple[Lanes, ...] = ()
    mac: bool = True
    hold: bool = False
    shift: bool = False
    phase: int = 0
    merge: tuple[int, int, int] | None = None


def group_words(words: Sequence[Word], size: int) -> list[list[Word]]:
    """Words in groups of at most `size` whose banks differ, in as few groups as possible.

    The fewest is max(ceil(words / size), words in the fullest bank); taking always from the fullest
    banks reaches it (McNaughton's wrap-around argument). Cutting off runs of four consecutive words
    first, which use every bank once, leaves steps that repeat with a constant increment; it costs
    groups only where pairs are formed and one bank dominates.
    """
    if size == 1:
        return [[word] for word in words]
    groups: list[list[Word]] = []
    rest: list[Word] = []
    start = 0
    while start < len(words):
        run = words[start : start + ACTIVATION_BANKS]
        if len(run) == ACTIVATION_BANKS and all(
            b.offset == a.offset + 1 and (b.dy, b.dx) == (a.dy, a.dx)
            for a, b in zip(run, run[1:], strict=False)
        ):
            groups += [list(run[i : i + size]) for i in range(0, ACTIVATION_BANKS, size)]
            start += ACTIVATION_BANKS
        else:
            rest.append(words[start])
            start += 1
    groups += _from_fullest(rest, size)
    plain = _from_fullest(words, size) if size < ACTIVATION_BANKS else groups
    return plain if len(plain) < len(groups) else groups


def _from_fullest(words: Sequence[Word], size: int) -> list[list[Word]]:
    """Each group takes a word from each of the `size` banks that have most left."""
    banks: list[list[Word]] = [[] for _ in range(ACTIVATION_BANKS)]
    for word in reversed(words):
        banks[word.bank].append(word)
    groups = []
    while any(banks):
        fullest = sorted(range(ACTIVATION_BANKS), key=lambda b: -len(banks[b]))[:size]
        groups.append([banks[b].pop() for b in sorted(fullest) if banks[b]])
    return groups


def compress(steps: Sequence[Step]) -> list[dict[str, int]]:
    """Step-RAM entries, in order: steps alike but for a constant address increment share one."""
    entries: list[dict[str, int]] = []
    start = 0
    while start < len(steps):
        first = steps[start]
        increment = 0
        repeat = 0
        while start + repeat + 1 < len(steps) and repeat < MAX_REPEAT:
            delta = _increment(steps[start + repeat], steps[start + repeat + 1])
            if delta is None or (repeat and delta != increment):
                break
            increment = delta
            repeat += 1
        entries.append(_entry(first, repeat, increment))
        start += repeat + 1
    return entries


def _increment(a: Step, b: Step) -> int | None:
    """Words from every word of `a` to the same slot of `b`, None where they differ otherwise."""
    flags_a = (a.mac, a.hold, a.shift, a.phase, a.merge, len(a.words))
    if flags_a != (b.mac, b.hold, b.shift, b.phase, b.merge, len(b.words)):
        return None
    delta: int | None = None
    for word, after in zip(a.words, b.words, strict=True):
        if word is None or after is None:
            if word is not after:
                return None
            continue
        if (word.dy, word.dx) != (after.dy, after.dx):
            return None
        step = after.offset - word.offset
        if delta is not None and step != delta:
            return None
        delta = step
    delta = delta or 0
    return delta if MIN_INCREMENT <= delta <= MAX_INCREMENT else None


def _entry(step: Step, repeat: int, increment: int) -> dict[str, int]:
    entry = {
        "repeat": repeat,
        "increment": increment,
        "mac": int(step.mac),
        "hold": int(step.hold),
        "shift": int(step.shift),
        "phase": step.phase,
    }
    if step.merge is not None:
        entry["merge"] = 1
        entry["merge1"], entry["merge2"], entry["merge3"] = step.merge
    for slot, word in enumerate(step.words[:STEP_SLOTS]):
        if word is not None:
            entry[f"valid{slot}"] = 1
            entry[f"dy{slot}"] = word.dy
            entry[f"dx{slot}"] = word.dx
            entry[f"offset{slot}"] = word.offset & ADDRESS_MASK
    return entry
