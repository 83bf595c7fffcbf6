# SPDX-License-Identifier: Apache-2.0
"""Random DENSE layers as hand-made programs, whole and cut along their input channels.

The compiler has no part in these: they are for checking that passes which keep 32-bit sums between
them give the bytes of the layer in one piece.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitloop.binary import ALIGNMENT, Binary, LayerInfo, Port, Span
from bitloop.graph.ir import Requantization, TensorSpec
from bitloop.hw.config import CoreConfig
from bitloop.hw.isa import LINE_BYTES, STEP, Mode, Opcode, Window, encode_instruction
from bitloop.hw.isa import encode_parameters as encode_channel
from bitloop.numerics import requantize

_DIGITS = {Mode.DENSE8: 1, Mode.DENSE4: 2, Mode.DENSE2: 4}
SHORTEST_PASS = 8
"""Steps of a pass."""
SUM_WORDS = 4


@dataclass(frozen=True, eq=False)
class SplitLayer:
    """A layer of one output word a pixel, every group of it used, without a kernel."""

    config: CoreConfig
    mode: Mode
    passes: tuple[int, ...]
    """Steps of each pass; a step takes the mode's number of words."""
    height: int
    width: int
    left: int
    """Pixels of padding left of each row."""
    padding: int
    weights: NDArray[np.uint8]
    """(groups, steps, columns, lanes), raw."""
    codes: NDArray[np.uint8]
    """(1, height, width, channels), an input that `requantization` suits."""
    raw: bool
    """The four bytes of the sums are the outputs, in `raw_order`; `requantization` goes unused."""
    requantization: Requantization
    parity: int
    """Of the output's zero-point."""
    separate: bool
    """Every output of a pass has a step of its own, the first one too."""
    scatter: int
    """Seed of what does not matter: addresses, and fields that are not looked at."""

    @property
    def words(self) -> int:
        """Input words a pixel."""
        return sum(self.passes) * _DIGITS[self.mode]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.height, self.width, self.words * self.config.lanes

    @property
    def outputs(self) -> int:
        """Outputs a pixel."""
        return SUM_WORDS if self.raw else 1

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.height, self.width + self.left, self.outputs * self.config.lanes

    def golden(self) -> NDArray[np.uint8]:
        """Outputs for `codes`."""
        sums = _sums(self.mode, self.weights, self.codes, self.left, self.padding)
        if self.raw:
            order = self.raw_order
            planes = [sums >> 8 * order[:, i].reshape(-1) & 255 for i in range(SUM_WORDS)]
            return np.concatenate(planes, axis=3).astype(np.uint8)
        return requantize(sums, self.requantization, self.parity)

    @property
    def raw_order(self) -> NDArray[np.int64]:
        """Byte of the sum that each raw output shows, (groups, outputs, columns): each group and
        column has parameters of its own."""
        config = self.config
        index = np.indices((config.groups_per_word, SUM_WORDS, config.columns))
        return index.sum(0) % SUM_WORDS

    def binary(self, split: bool) -> Binary:
        """The program: in passes, or with `split` off whole."""
        return _Program(self, self.passes if split else (sum(self.passes),)).binary()


def _sums(
    mode: Mode, weights: NDArray[np.uint8], codes: NDArray[np.uint8], left: int, padding: int
) -> NDArray[np.int64]:
    """(batch, height, left + width, columns of all groups)."""
    bits = 8 // _DIGITS[mode]
    parts = [(weights >> np.uint8(s)) & np.uint8((1 << bits) - 1) for s in range(0, 8, bits)]
    digits = np.stack(parts, axis=2).astype(np.int64)  # (groups, steps, digits, columns, lanes)
    signed = digits - ((digits >> (bits - 1)) << bits)
    groups, _, _, columns, _ = signed.shape
    matrix = signed.transpose(1, 2, 4, 0, 3).reshape(-1, groups * columns)
    padded = np.pad(codes, ((0, 0), (0, 0), (left, 0), (0, 0)), constant_values=padding)
    return padded.astype(np.int64) @ matrix


def random_split_layer(config: CoreConfig, seed: int) -> SplitLayer:
    """A layer of 2 to 4 passes whose weights and sums fit the core."""
    rng = random.Random(seed)
    generator = np.random.default_rng(seed)
    mode = rng.choice([mode for mode in _DIGITS if 8 // _DIGITS[mode] >= config.slice_bits])
    passes = tuple(
        rng.randrange(SHORTEST_PASS, SHORTEST_PASS + 9) for _ in range(rng.randrange(2, 5))
    )
    height, width, left, padding = (rng.randrange(n, n + 4) for n in (1, 1, 0, 126))
    left %= 2
    weights = generator.integers(
        0, 256, (config.groups_per_word, sum(passes), config.columns, config.lanes), np.uint8
    )
    # Signs agree in half of the columns: their sums grow large.
    top = sum(1 << (bits - 1) for bits in range(8 // _DIGITS[mode], 9, 8 // _DIGITS[mode]))
    weights[:, :, 0::4] |= np.uint8(top)
    weights[:, :, 1::4] &= np.uint8(255 - top)
    channels = sum(passes) * _DIGITS[mode] * config.lanes
    codes = generator.integers(0, 256, (1, height, width, channels), np.uint8)
    sums = _sums(mode, weights, codes, left, padding)
    low = rng.choice((0, rng.randrange(80)))
    return SplitLayer(
        config=config,
        mode=mode,
        passes=passes,
        height=height,
        width=width,
        left=left,
        padding=padding,
        weights=weights,
        codes=codes,
        raw=rng.random() < 0.4,
        requantization=_spreading(generator, sums, config, low, rng.randrange(low + 100, 256)),
        parity=rng.randrange(2),
        separate=rng.random() < 0.5,
        scatter=rng.randrange(1 << 32),
    )


def _spreading(
    generator: np.random.Generator,
    sums: NDArray[np.int64],
    config: CoreConfig,
    low: int,
    high: int,
) -> Requantization:
    """Parameters that spread each channel's sums over the byte and a little beyond."""
    least, most = sums.min((0, 1, 2)), sums.max((0, 1, 2))
    multiplier = generator.integers(
        1 << (config.multiplier_bits - 1), 1 << config.multiplier_bits, least.size
    )
    span = (most - least + 1) * multiplier
    shift = np.maximum(0, np.floor(np.log2(span / 200.0))).astype(np.int64)
    constant = (np.int64(10) << shift) - least * multiplier
    half_even = bool(generator.integers(2))
    return Requantization(multiplier, constant, shift, low, high, half_even)


class _Program:
    """Sections of a binary under construction."""

    def __init__(self, layer: SplitLayer, passes: tuple[int, ...]) -> None:
        self._layer = layer
        self._passes = passes
        self._rng = random.Random(layer.scatter)
        rng, pixels = self._rng, layer.height * (layer.width + layer.left)
        self._input_base = rng.randrange(16)
        after = self._input_base + layer.height * layer.width * layer.words
        self._sum_base = after + rng.randrange(16)
        self._output_base = self._sum_base + SUM_WORDS * pixels + rng.randrange(16)
        assert self._output_base + layer.outputs * pixels <= layer.config.activation_words
        self._steps: list[dict[str, int]] = []
        self._computes: list[dict[str, int]] = []
        self._parameters = b""
        self._parameter_groups = 0

    def binary(self) -> Binary:
        layer, config = self._layer, self._layer.config
        weights = self._lay_weights()
        for index in range(len(self._passes)):
            self._pass(index)
        sections = {
            "steps": b"".join(STEP.encode(step) for step in self._steps),
            "weights": weights.tobytes(),
            "parameters": self._parameters,
        }
        offsets, position = {}, 0
        for name, raw in sections.items():
            offsets[name] = position
            position += -(-len(raw) // ALIGNMENT) * ALIGNMENT
        setup = (
            encode_instruction(
                Opcode.LOAD_STEPS,
                window=Window.PROGRAM,
                offset=offsets["steps"],
                count=len(self._steps),
            )
            + encode_instruction(
                Opcode.LOAD_WEIGHTS,
                window=Window.PROGRAM,
                offset=offsets["weights"],
                count=len(weights),
            )
            + encode_instruction(
                Opcode.LOAD_PARAMETERS,
                window=Window.PROGRAM,
                offset=offsets["parameters"],
                count=self._parameter_groups,
            )
            + encode_instruction(Opcode.HALT)
        )
        setup += bytes(-len(setup) % ALIGNMENT)
        inference = self._inference()
        offsets["instructions"] = position
        output = layer.output_shape
        spec = TensorSpec("x", layer.input_shape, 1.0, 0)
        arrays = {name: np.frombuffer(raw, np.uint8) for name, raw in sections.items()}
        return Binary(
            name="split" if len(self._passes) > 1 else "whole",
            config=config,
            inputs=(Port(spec, 0),),
            outputs=(Port(TensorSpec("y", output, 1.0, 0), 0),),
            layers=(LayerInfo("layer", "conv", 8 // _DIGITS[layer.mode], 0),),
            placements=(),
            setup=Span(position, len(setup) // LINE_BYTES),
            inference=Span(position + len(setup), len(inference) // LINE_BYTES),
            input_bytes=int(np.prod(layer.input_shape)),
            output_bytes=int(np.prod(output)),
            scratch_bytes=0,
            offsets=offsets,
            instructions=np.frombuffer(setup + inference, np.uint8),
            host=(),
            copies=(),
            **arrays,
        )

    def _lay_weights(self) -> NDArray[np.uint8]:
        """Rows of each group: those of each pass, then one of zeros."""
        weights, rows = self._layer.weights, []
        for group in weights:
            first = 0
            for steps in self._passes:
                rows += [group[first : first + steps], np.zeros_like(group[:1])]
                first += steps
        return np.concatenate(rows)

    def _pass(self, index: int) -> None:
        """Steps, parameters and COMPUTE of a pass."""
        layer, config, passes = self._layer, self._layer.config, self._passes
        digits = _DIGITS[layer.mode]
        before = sum(passes[:index])
        first, last = index == 0, index == len(passes) - 1
        emits = not last or layer.raw
        base = len(self._steps)
        if not first:
            self._steps += self._seed_steps()
        plain = {
            "mac": 1,
            "increment": digits,
            **{f"valid{j}": 1 for j in range(digits)},
            **{f"offset{j}": before * digits + j for j in range(digits)},
        }
        count = passes[index] - (emits and not layer.separate)
        self._steps.append({**plain, "repeat": count - 1})
        if emits:
            outputs = SUM_WORDS
            if not layer.separate:
                offsets = {f"offset{j}": (before + count) * digits + j for j in range(digits)}
                self._steps.append({**plain, **offsets, "emit": 1})
                outputs -= 1
            self._steps.append({"mac": 1, "hold": 1, "emit": 1, "repeat": outputs - 1})
        requantization = layer.requantization
        row = layer.width + layer.left
        fields = {
            "mode": layer.mode,
            "step_base": base,
            "step_count": len(self._steps) - base,
            "weight_base": before + index,
            "weight_group_step": sum(passes) + len(passes),
            "parameter_base": self._parameter_groups * config.parameter_words_per_group,
            "input_base": (self._input_base - layer.left * layer.words) % (1 << 14),
            "input_row_step": layer.width * layer.words,
            "input_pixel_step": layer.words,
            "input_height": layer.height,
            "input_width": layer.width,
            "origin_x": -layer.left,
            "stride_y": 1,
            "stride_x": 1,
            "padding": layer.padding,
            "output_height": layer.height,
            "output_width": row,
            "groups": config.groups_per_word,
        }
        sums = {"base": self._sum_base, "row_step": SUM_WORDS * row, "pixel_step": SUM_WORDS}
        if not first:
            fields |= {f"residual_{name}": value for name, value in sums.items()} | {"seeded": 1}
        if last:
            fields |= {
                "output_base": self._output_base,
                "output_row_step": layer.outputs * row,
                "output_pixel_step": layer.outputs,
                "mark": 1,
            }
        else:
            fields |= {f"output_{name}": value for name, value in sums.items()}
        if emits:
            # Clamping must not matter.
            fields |= {"wrap": 1, "low": self._rng.randrange(256), "high": self._rng.randrange(256)}
            order = layer.raw_order
            if not last:
                order = np.broadcast_to(np.arange(SUM_WORDS)[:, None], order.shape)
            for byte in order.reshape(-1).tolist():
                self._parameters += encode_channel(1, 0, 8 * byte, config.multiplier_bits)
            self._parameter_groups += SUM_WORDS * config.groups_per_word
        else:
            fields |= {
                "low": requantization.low,
                "high": requantization.high,
                "half_even": requantization.half_even,
                "output_parity": layer.parity,
            }
            channels = (requantization.multiplier, requantization.constant, requantization.shift)
            for m, c, s in zip(*map(np.ndarray.tolist, channels), strict=True):
                self._parameters += encode_channel(m, c, s, config.multiplier_bits)
            self._parameter_groups += config.groups_per_word
        self._computes.append(fields)

    def _seed_steps(self) -> list[dict[str, int]]:
        """Words 1 to 3 of the sum, then word 0; image coordinates must not matter."""
        rng = self._rng
        away = {f"d{axis}{j}": rng.randrange(-64, 64) for axis in "yx" for j in range(4)}
        upper = {f"valid{j}": 1 for j in (1, 2, 3)} | {f"offset{j}": j for j in (1, 2, 3)}
        return [{"seed": 1, **upper, **away}, {"seed": 1, "mac": 1, "valid0": 1, **away}]

    def _inference(self) -> bytes:
        layer = self._layer
        height, width, channels = layer.input_shape
        row = width + layer.left
        lines = encode_instruction(
            Opcode.LOAD_ACTIVATIONS,
            window=Window.INPUT,
            segments=1,
            segment_bytes=height * width * channels,
            destination=self._input_base,
            row_step=width * layer.words,
            height=height,
            width=width,
            channels=channels,
        )
        for index, fields in enumerate(self._computes):
            waits = {"wait_load": 1, "wait_compute": index}
            lines += encode_instruction(Opcode.COMPUTE, **waits, **fields)
        lines += encode_instruction(
            Opcode.STORE_ACTIVATIONS,
            window=Window.OUTPUT,
            segments=1,
            segment_bytes=int(np.prod(layer.output_shape)),
            destination=self._output_base,
            row_step=layer.outputs * row,
            height=height,
            width=row,
            channels=layer.output_shape[2],
            wait_compute=len(self._computes),
        )
        return lines + encode_instruction(Opcode.HALT)
