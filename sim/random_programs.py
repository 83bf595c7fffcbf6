# SPDX-License-Identifier: Apache-2.0
"""Random instruction streams: legal for the core, without meaning as a network.

They reach what compiled networks seldom do: loads, steps and stores of every shape at the same
time, waits on any earlier instruction, bank conflicts, runs of odd lengths at odd addresses. Cycles
of the core do not depend on data, so they suit comparisons of timing.
"""

from __future__ import annotations

import numpy as np

from bitloop.binary import ALIGNMENT, Binary, LayerInfo, Port, Span
from bitloop.graph.ir import TensorSpec
from bitloop.hw.config import CoreConfig
from bitloop.hw.isa import (
    ADDRESS_BITS,
    LINE_BYTES,
    QUEUE_OF,
    STEP,
    STEP_SLOTS,
    Mode,
    Opcode,
    Queue,
    Window,
    encode_instruction,
)

WINDOW_BYTES = 16384
"""Input, output and scratch window."""
MOST_STEPS = 6000
"""Steps of one COMPUTE, about."""
STEP_BYTES = STEP.bits // 8

_WORD = 1 << ADDRESS_BITS
_WEIGHTS = {
    Opcode.COMPUTE: 0.35,
    Opcode.LOAD_ACTIVATIONS: 0.18,
    Opcode.LOAD_TABLE: 0.02,
    Opcode.STORE_ACTIVATIONS: 0.15,
    Opcode.LOAD_WEIGHTS: 0.12,
    Opcode.LOAD_PARAMETERS: 0.1,
    Opcode.LOAD_STEPS: 0.08,
}


def random_program(seed: int, config: CoreConfig) -> Binary:
    """The program of a seed for this core; its layers are the COMPUTEs that carry a mark."""
    return _Builder(seed, config).binary()


class _Builder:
    def __init__(self, seed: int, config: CoreConfig) -> None:
        self.rng = np.random.default_rng((seed, 3))
        self.config = config
        self.name = f"program-seed{seed}"
        # Steps that COMPUTEs walk; the rest of the step RAM is loaded again while they do.
        self.used_steps = config.step_entries * 3 // 4
        self.repeats = [self.integer(0, 6) if self.chance(0.2) else 0 for _ in range(32)]
        self.steps = b"".join(self._step(i) for i in range(config.step_entries))
        self.data = self.rng.integers(0, 256, 1 << 15, dtype=np.uint8).tobytes()
        self.issued = dict.fromkeys(Queue, 0)
        self.marks = 0

    def integer(self, low: int, high: int) -> int:
        """Uniform in low..high, both included."""
        return int(self.rng.integers(low, high + 1))

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def binary(self) -> Binary:
        setup_lines = 3  # LOAD_STEPS, HALT, and alignment
        count = self.integer(4, 40)
        self.offsets = dict.fromkeys(("instructions", "steps", "weights", "parameters"), 0)
        room = (setup_lines + 2 * count + 2) * LINE_BYTES
        self.offsets["steps"] = _aligned(room)
        self.offsets["weights"] = _aligned(self.offsets["steps"] + len(self.steps))
        self.offsets["parameters"] = _aligned(self.offsets["weights"] + len(self.data))
        all_steps = {"count": self.config.step_entries, "offset": self.offsets["steps"]}
        setup = encode_instruction(Opcode.LOAD_STEPS, **all_steps)
        setup += encode_instruction(Opcode.HALT)
        start = _aligned(len(setup))
        # One COMPUTE at least: without a step there is no trace.
        chosen = [self._opcode() for _ in range(count)]
        chosen[self.integer(0, count - 1)] = Opcode.COMPUTE
        lines = [self._instruction(opcode) for opcode in chosen]
        inference = b"".join(lines) + encode_instruction(Opcode.HALT)
        instructions = setup.ljust(start, b"\0") + inference
        layers = tuple(LayerInfo(f"compute{i}", "conv", 8, 0) for i in range(self.marks))
        return Binary(
            name=self.name,
            config=self.config,
            inputs=(Port(TensorSpec("x", (1, 1, 4), 1.0, 0), 0),),
            outputs=(),
            layers=layers,
            placements=(),
            setup=Span(0, len(setup) // LINE_BYTES),
            inference=Span(start, len(inference) // LINE_BYTES),
            input_bytes=WINDOW_BYTES,
            output_bytes=WINDOW_BYTES,
            scratch_bytes=WINDOW_BYTES,
            offsets=self.offsets,
            instructions=np.frombuffer(instructions, np.uint8),
            steps=np.frombuffer(self.steps, np.uint8),
            weights=np.frombuffer(self.data, np.uint8),
            parameters=np.frombuffer(self.data, np.uint8),
        )

    def _step(self, index: int) -> bytes:
        fields = {"mac": int(index % 2 or self.chance(0.8)), "hold": int(self.chance(0.2))}
        for j in range(STEP_SLOTS):
            fields[f"valid{j}"] = int(self.chance((0.9, 0.5, 0.3, 0.3)[j]))
            fields[f"dy{j}"] = self.integer(-2, 3)
            fields[f"dx{j}"] = self.integer(-2, 3)
            fields[f"offset{j}"] = self.integer(0, _WORD - 1)
        fields["repeat"] = self.repeats[index % len(self.repeats)]
        fields["increment"] = self.integer(-3, 5)
        fields["shift"] = int(self.chance(0.2))
        fields["seed"] = int(self.chance(0.1))
        fields["emit"] = fields["mac"] & self.chance(0.1)
        return STEP.encode(fields)

    def _opcode(self) -> Opcode:
        opcodes = list(_WEIGHTS)
        return opcodes[self.rng.choice(len(opcodes), p=list(_WEIGHTS.values()))]

    def _instruction(self, opcode: Opcode) -> bytes:
        fields = getattr(self, f"_{opcode.name.lower()}")()
        for queue, issued in self.issued.items():
            wait = self.rng.choice([0, issued, self.integer(0, issued)], p=[0.5, 0.25, 0.25])
            fields[f"wait_{queue.name.lower()}"] = int(wait)
        self.issued[QUEUE_OF[opcode]] += 1
        return encode_instruction(opcode, **fields)

    def _load_steps(self) -> dict[str, int]:
        first = self.integer(self.used_steps, self.config.step_entries - 1)
        count = self.integer(1, self.config.step_entries - first)
        offset = self.offsets["steps"] + first * STEP_BYTES
        return {"destination": first, "count": count, "offset": offset}

    def _load_table(self) -> dict[str, int]:
        return {"offset": self.offsets["weights"] + self.integer(0, len(self.data) - 256)}

    def _load_weights(self) -> dict[str, int]:
        most = min(self.config.weight_rows, len(self.data) // self.config.weight_row_bytes)
        count = min(most, self.integer(1, 24))
        destination = self.integer(0, self.config.weight_rows - count)
        last = len(self.data) - count * self.config.weight_row_bytes
        offset = self.offsets["weights"] + self.integer(0, last)
        return {"destination": destination, "count": count, "offset": offset}

    def _load_parameters(self) -> dict[str, int]:
        words = self.config.parameter_words_per_group
        count = self.integer(1, min(8, self.config.parameter_words // words))
        destination = self.integer(0, self.config.parameter_words - count * words)
        size = count * (words + 1) * 4 * self.config.columns
        offset = self.offsets["parameters"] + self.integer(0, len(self.data) - size)
        return {"destination": destination, "count": count, "offset": offset}

    def _pixels(self, windows: list[Window], channels: int, splits: bool = True) -> dict[str, int]:
        height, width = self.integer(1, 9), self.integer(1, 17)
        size = height * width * channels
        divisors = [n for n in range(1, min(size, 64) + 1) if size % n == 0]
        segments = int(self.rng.choice(divisors)) if splits and self.chance(0.5) else 1
        run = size // segments
        most_stride = (WINDOW_BYTES - run) // max(1, segments - 1)
        stride = self.integer(0, min(most_stride, 2 * run + 8)) if segments > 1 else 0
        end = (segments - 1) * stride + run
        return {
            "window": int(self.rng.choice(windows)),
            "offset": self.integer(0, WINDOW_BYTES - end),
            "segments": segments,
            "segment_bytes": run,
            "segment_stride": stride,
            "destination": self.integer(0, self.config.activation_words - 1),
            "row_step": self.integer(0, 200),
            "height": height,
            "width": width,
            "channels": channels,
            "signed_codes": int(self.chance(0.5)),
        }

    def _channels(self) -> int:
        lanes = self.config.lanes
        near = self.integer(1, 3) * lanes + self.integer(-1, 1)
        return near if self.chance(0.4) else self.integer(1, 3 * lanes)

    def _load_activations(self) -> dict[str, int]:
        windows = [Window.INPUT, Window.SCRATCH]
        folds = self.chance(0.5)
        channels = int(self.rng.choice([1, 2, 3, 3, 4])) if folds else self._channels()
        fields = self._pixels(windows, channels, splits=not folds or self.chance(0.4))
        fields["table"] = int(self.chance(0.3))
        if folds:
            fields["fold"] = self.integer(1, min(15, self.config.lanes // channels))
            fields["fold_extra"] = self.integer(0, 15)
            fields["fold_skip"] = int(self.rng.choice([0, 1, 1, 2, 3]))
            fields["fold_phase"] = self.integer(0, fields["fold_skip"])
        return fields

    def _store_activations(self) -> dict[str, int]:
        return self._pixels([Window.OUTPUT, Window.SCRATCH], self._channels())

    def _compute(self) -> dict[str, int]:
        config = self.config
        modes = [m for m in Mode if m is not Mode.DENSE2 or config.slices >= 4]
        modes = [m for m in modes if m is not Mode.WINDOW or config.window_taps]
        prologue = self.integer(1, 4) if self.chance(0.3) else 0
        body = self.integer(1, 3) if self.chance(0.5) else self.integer(1, 20)
        body = min(body, self.used_steps - prologue - 1)
        base = self.integer(0, self.used_steps - prologue - body - 1)
        base += (base + prologue + body) % 2  # the last entry has an odd number, so `mac`
        longest = sum(
            self.repeats[i % len(self.repeats)] + 1 for i in range(base, base + prologue + body)
        )
        height, width, groups = self.integer(1, 6), self.integer(1, 9), self.integer(1, 5)
        while height * width * groups * longest > MOST_STEPS:
            height, width = max(1, height // 2), max(1, width // 2)
            groups = max(1, groups - 1)
        residual = int(self.chance(0.3))
        self.marks += (mark := int(self.chance(0.7)))
        fields = {
            "mark": mark,
            "mode": int(self.rng.choice(modes)),
            "residual": residual,
            "wrap": int(self.chance(0.2)),
            "seeded": int(self.chance(0.2)),
            "step_base": base,
            "prologue_count": prologue,
            "step_count": body,
            "input_height": self.integer(0, 12),
            "input_width": self.integer(0, 12),
            "origin_y": self.integer(-3, 3),
            "origin_x": self.integer(-3, 3),
            "stride_y": self.integer(0, 3),
            "stride_x": self.integer(0, 3),
            "output_height": height,
            "output_width": width,
            "groups": groups,
            # Few values, so that constants are sometimes those of the instruction before.
            "low": self.integer(0, 1),
            "high": 255,
            "add_shift": self.integer(0, 1),
            "add_constant": self.integer(-1, 1),
            "settle": self.integer(0, 63) if self.chance(0.4) else 0,
        }
        for name in ("input", "output", "residual"):
            fields[f"{name}_base"] = self.integer(0, _WORD - 1)
            fields[f"{name}_row_step"] = self.integer(0, 100)
            fields[f"{name}_pixel_step"] = self.integer(0, 6)
        return fields


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
