# SPDX-License-Identifier: Apache-2.0
"""Waits by time: against a walk of every step, and the cycles they count on against the core's."""

import random

import pytest

from bitloop.hw.array import array_latency
from bitloop.hw.config import PRESETS, RESIDUAL_CYCLES, preset
from bitloop.hw.isa import FORMATS, START_CYCLES, STEP, STEP_SLOTS, Mode, Opcode
from bitloop.hw.operand_fetch import STAGES
from bitloop.pipeline import Pipeline

N4, N16M8 = preset("n4"), preset("n16m8")
CONFIGS = [*PRESETS.values(), N4.replace(multiplier_bits=31), N16M8.replace(multiplier_bits=31)]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.name}-{c.multiplier_bits}")
def test_outputs_are_there_when_the_instruction_set_says(config):
    """An output leaves the array this long after its step; the activation RAM shows a write two
    cycles later to a read, and a step reads two cycles after it was issued."""
    assert config.output_cycles == 1 + STAGES + array_latency(config, residual=False)
    with_residual = config.output_cycles + RESIDUAL_CYCLES
    assert with_residual == 1 + STAGES + array_latency(config, residual=True)


def random_compute(rng, config):
    """A small one, its step list with repetitions, seeds, several outputs and words outside."""
    count, prologue = rng.randint(1, 4), rng.choice([0, 0, 1, 2])
    entries = []
    for _ in range(count + prologue):
        entry = dict.fromkeys((f.name for f in STEP.fields), 0)
        for j in range(STEP_SLOTS):
            entry |= {f"valid{j}": rng.randint(0, 1), f"offset{j}": rng.randint(0, 12),
                      f"dy{j}": rng.randint(-1, 1), f"dx{j}": rng.randint(-1, 1)}  # fmt: skip
        entry |= {"repeat": rng.choice([0, 0, 2]), "increment": rng.randint(-1, 2), "mac": 1,
                  "seed": int(rng.random() < 0.1)}  # fmt: skip
        entry["emit"] = int(not prologue and rng.random() < 0.1)
        entries.append(entry)
    fields = dict.fromkeys((f.name for f in FORMATS[Opcode.COMPUTE].fields), 0)
    for name in ("input", "output", "residual"):
        fields |= {f"{name}_base": rng.randint(0, 40), f"{name}_row_step": rng.randint(0, 9),
                   f"{name}_pixel_step": rng.randint(0, 3)}  # fmt: skip
    fields |= {"mode": rng.choice(list(Mode)), "residual": rng.randint(0, 1),
               "prologue_count": prologue, "step_count": count, "groups": rng.randint(1, 5),
               "output_height": rng.randint(1, 4), "output_width": rng.randint(1, 4),
               "input_height": rng.randint(1, 4), "input_width": rng.randint(1, 4),
               "stride_y": 1, "stride_x": 1}  # fmt: skip
    return fields, entries


def walk(fields, entries, config):
    """(step, words read, words written) of every step, outputs of a pixel with its last."""
    step, result = 0, []
    by_group = fields["mode"] in (Mode.DEPTHWISE, Mode.WINDOW, Mode.MAXIMUM)
    for g in range(fields["groups"]):
        word = g // config.groups_per_word
        for y in range(fields["output_height"]):
            for x in range(fields["output_width"]):
                at = {
                    name: fields[f"{name}_base"]
                    + y * fields[f"{name}_row_step"]
                    + x * fields[f"{name}_pixel_step"]
                    for name in ("input", "output", "residual")
                }
                base = at["input"] + word * by_group
                outputs = 0
                skipped = 0 if x == 0 else fields["prologue_count"]
                for entry in entries[skipped:]:
                    for r in range(entry["repeat"] + 1):
                        reads = {at["residual"] + word} if fields["residual"] else set()
                        for j in range(STEP_SLOTS):
                            row, column = y + entry[f"dy{j}"], x + entry[f"dx{j}"]
                            inside = (
                                0 <= row < fields["input_height"]
                                and 0 <= column < fields["input_width"]
                            )
                            if entry[f"valid{j}"] and (inside or entry["seed"]):
                                origin = at["residual"] + word if entry["seed"] else base
                                offset = entry[f"offset{j}"] + r * entry["increment"]
                                reads.add((origin + offset) % (1 << 14))
                        outputs += entry["emit"]
                        result.append((step, reads, set()))
                        step += 1
                outputs += not entries[-1]["emit"]
                result[-1][2].update((at["output"] + word + i) % (1 << 14) for i in range(outputs))
    return result


@pytest.mark.parametrize("config", [N4, N16M8], ids=lambda c: c.name)
def test_waits_are_those_of_a_walk_of_every_step(config):
    rng = random.Random(config.name)
    waits = []
    for _ in range(40):
        pipeline, clock, written = Pipeline(config), 0, {}
        for number in range(1, 9):
            fields, entries = random_compute(rng, config)
            start = clock + START_CYCLES
            steps = walk(fields, entries, config)
            expected = 0
            for step, reads, _ in steps:
                for word in reads:
                    made, by = written.get(word, (-1000, 0))
                    if start + step < made + config.output_cycles:
                        expected = max(expected, by)
            settle = pipeline.settle(fields, entries)
            assert (settle > 0) == (expected > 0)
            if expected and rng.random() < 0.5:
                fields["settle"] = settle - rng.randint(0, 1)
                start = clock + max(START_CYCLES, fields["settle"])
                if fields["settle"] == settle:
                    expected = 0
                else:
                    assert pipeline.settle(fields, entries) == settle
                    expected = None
            found = pipeline.add(fields, entries)
            assert found == expected if expected is not None else found > 0
            expected = found
            waits.append(expected != 0)
            clock = start + len(steps) - 1
            for step, _, writes in steps:
                made = start + step + RESIDUAL_CYCLES * fields["residual"]
                written.update(dict.fromkeys(writes, (made, number)))
    assert 0.2 < sum(waits) / len(waits) < 0.8
