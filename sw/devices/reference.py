# SPDX-License-Identifier: Apache-2.0
"""The reference device: executes a binary's programs instruction by instruction in NumPy.

It follows `bitloop.hw.isa` and knows neither the graph nor the compiler, so graph executor,
programs and RTL check one another. It has no notion of time, but refuses programs that the core
could run differently: words of one bank in a step, outputs over inputs still to be read, missing
waits, addresses outside a memory or window.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitloop.hw.config import PARAMETER_WORD_BITS, CoreConfig
from bitloop.hw.fields import EncodingError
from bitloop.hw.isa import (
    STEP,
    Mode,
    Opcode,
    Window,
)

from ..binary import Binary
from ..errors import DataError, DeviceError
from ..graph.ir import Requantization
from ..numerics import add_requantize, requantize
from .dense import DIGITS, lane_slots, signed_digits
from .hazards import Access, check_overwrite, check_waits, output_words
from .interface import Profile
from .memories import Memories, pixel_words, word_positions
from .walk import WINDOW_COLUMNS, Walk, pixel_addresses, walks

ACCUMULATOR_LIMIT = 1 << 31


class ReferenceDevice:
    """Backend `reference`; exact, without cycles."""

    name = "reference"

    def __init__(self) -> None:
        self._binary: Binary | None = None

    def load(self, binary: Binary) -> None:
        """Run the setup program and check the inference program. Raises `DeviceError` for a
        program the core would not run as meant."""
        self._binary = binary
        self._core = Core(binary.config, binary.image())
        self._core.run(binary.program(binary.setup), {})
        program = binary.program(binary.inference)
        self._core.windows = _windows(binary)
        accesses = [self._core.access(opcode, fields) for opcode, fields in program[:-1]]
        check_waits(accesses, binary.config)

    def run(
        self, inputs: Mapping[str, NDArray[np.uint8]]
    ) -> tuple[dict[str, NDArray[np.uint8]], Profile | None]:
        """See `interface.Device.run`; the profile is None."""
        if self._binary is None:
            raise DeviceError("no binary is loaded; call load() first")
        binary = self._binary
        batch = _check_inputs(binary, inputs)
        results: dict[str, NDArray[np.uint8]] = {
            port.spec.name: np.empty((batch, *port.spec.shape), np.uint8) for port in binary.outputs
        }
        program = binary.program(binary.inference)
        for image in range(batch):
            windows = _windows(binary)
            for port in binary.inputs:
                raw = np.ascontiguousarray(inputs[port.spec.name][image]).reshape(-1)
                windows[Window.INPUT][port.offset : port.offset + port.size] = raw
            self._core.run(program, windows)
            for port in binary.outputs:
                raw = windows[Window.OUTPUT][port.offset : port.offset + port.size]
                results[port.spec.name][image] = raw.reshape(port.spec.shape)
        return results, None


def _windows(binary: Binary) -> dict[Window, NDArray[np.uint8]]:
    return {
        Window.INPUT: np.zeros(binary.input_bytes, np.uint8),
        Window.OUTPUT: np.zeros(binary.output_bytes, np.uint8),
        Window.SCRATCH: np.zeros(binary.scratch_bytes, np.uint8),
    }


def _check_inputs(binary: Binary, inputs: Mapping[str, NDArray[np.uint8]]) -> int:
    names = {port.spec.name for port in binary.inputs}
    if set(inputs) != names:
        raise DataError(f"{binary.name}: inputs must be {sorted(names)}, not {sorted(inputs)}")
    for port in binary.inputs:
        array = inputs[port.spec.name]
        if array.dtype != np.uint8 or array.shape[1:] != port.spec.shape:
            raise DataError(
                f"{binary.name}: input {port.spec.name} must be uint8 of (batch, "
                f"{', '.join(map(str, port.spec.shape))}), not {array.dtype} of {array.shape}"
            )
    batches = {array.shape[0] for array in inputs.values()}
    if len(batches) != 1 or 0 in batches:
        raise DataError(
            f"{binary.name}: batch sizes must be equal and at least 1, not {sorted(batches)}"
        )
    return batches.pop()


class Core(Memories):
    """The memories and what instructions do to them."""

    def __init__(self, config: CoreConfig, image: bytes) -> None:
        super().__init__(config, image)
        self._walks: dict[tuple[Any, ...], list[Walk]] = {}

    def run(
        self,
        program: list[tuple[Opcode, dict[str, int]]],
        windows: dict[Window, NDArray[np.uint8]],
    ) -> None:
        """Execute a program against these windows (the program window is the core's own)."""
        self.windows = windows
        for opcode, fields in program:
            if opcode is Opcode.LOAD_WEIGHTS:
                self.load_weights(fields)
            elif opcode is Opcode.LOAD_PARAMETERS:
                self.load_parameters(fields)
            elif opcode is Opcode.LOAD_STEPS:
                self.load_steps(fields)
            elif opcode is Opcode.LOAD_TABLE:
                self.load_table(fields)
            elif opcode is Opcode.LOAD_ACTIVATIONS:
                self.load_activations(fields)
            elif opcode is Opcode.COMPUTE:
                self._compute(fields)
            elif opcode is Opcode.STORE_ACTIVATIONS:
                self.store_activations(fields)

    # ---- compute -------------------------------------------------------------------------------

    def _compute(self, f: dict[str, int]) -> None:
        config, groups = self.config, f["groups"]
        mode = Mode(f["mode"])
        channels = groups * config.columns
        pixels = f["output_height"] * f["output_width"]
        self.activations[-2] = f["padding"]
        self.activations[-1] = 0
        parts = self._walk(f)
        outputs = parts[0].steps.outputs
        accumulators = np.zeros((outputs, pixels, channels), np.int64)
        if mode is Mode.WINDOW:
            self._accumulate_window(f, parts, accumulators[0])
        else:
            for walk in parts:
                if mode in DIGITS:
                    accumulators[:, walk.pixels] = self._accumulate_dense(f, walk, mode)
                else:
                    accumulators[0, walk.pixels] = self._accumulate_depthwise(f, walk, mode)
        largest = int(np.abs(accumulators).max())
        if largest >= ACCUMULATOR_LIMIT:
            raise DeviceError(f"an accumulator reaches {largest}, it holds 32 bits signed")
        first = output_words(f, outputs, config)
        for i, requantization in enumerate(self._requantizations(f, outputs)):
            result = self._requantize(f, accumulators[i], requantization)
            addresses = first[:, i : i + 1] + np.arange(self._words(f))
            words = self.activations[addresses].reshape(pixels, -1)  # bytes not written stay
            words[:, :channels] = result
            self.activations[addresses] = words.reshape(*addresses.shape, config.lanes)

    def _requantize(
        self, f: dict[str, int], accumulator: NDArray[np.int64], requantization: Requantization
    ) -> NDArray[np.uint8]:
        """(pixels, channels), the residual added."""
        if f["wrap"]:
            total = accumulator * requantization.multiplier + requantization.constant
            result = (total >> requantization.shift & 255).astype(np.uint8)
        else:
            result = requantize(accumulator, requantization, f["output_parity"])
        if not f["residual"]:
            return result
        residual = self.activations[self._residual_words(f)].reshape(len(result), -1)
        return add_requantize(
            result, residual[:, : result.shape[1]],
            f["add_output_multiplier"], f["add_residual_multiplier"],
            f["add_constant"], f["add_shift"], f["add_low"], f["add_high"],
        )  # fmt: skip

    def _words(self, f: dict[str, int]) -> int:
        """Words a pixel that the groups of the instruction span."""
        return -(-f["groups"] // self.config.groups_per_word)

    def _residual_words(self, f: dict[str, int]) -> NDArray[np.int64]:
        """(pixels, words)."""
        pixels = np.arange(f["output_height"] * f["output_width"])
        addresses = pixel_addresses(f, "residual", pixels)[:, None] + np.arange(self._words(f))
        self.check_words(addresses)
        return addresses

    def _entries(self, f: dict[str, int]) -> list[bytes]:
        count = f["prologue_count"] + f["step_count"]
        return self.steps[self.cells("steps", f["step_base"], count)]

    def _walk(self, f: dict[str, int]) -> list[Walk]:
        """Walks of an instruction, checked and kept: they do not depend on data."""
        entries = self._entries(f)
        key = (tuple(f.values()), b"".join(entries))
        if key not in self._walks:
            try:
                decoded = [STEP.decode(entry) for entry in entries]
            except EncodingError as error:
                raise DeviceError(f"step RAM: {error}") from None
            self._walks[key] = walks(f, decoded, self.config)
            check_overwrite(f, self._walks[key], self.config)
        return self._walks[key]

    def _weight_rows(self, f: dict[str, int], rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(groups, len(rows), columns, lanes), raw bytes."""
        first = f["weight_base"] + np.arange(f["groups"]) * f["weight_group_step"]
        index = first[:, None] + rows
        self.cells("weights", int(index.max()), 1)
        return self.weights[index]

    def _accumulate_dense(self, f: dict[str, int], walk: Walk, mode: Mode) -> NDArray[np.int64]:
        """(outputs a pixel, pixels, channels)."""
        digits = DIGITS[mode]
        steps, mac = walk.steps, walk.steps.mac
        words = walk.words[:, mac]
        merge = steps.merge[mac]
        slots = lane_slots(merge, digits, self.config.lanes)
        if (merge >= 0).any():
            index = np.broadcast_to(slots, (len(words), *slots.shape))
            data = np.take_along_axis(self.fetch(words), index, axis=2)
        else:
            data = self.fetch(words[:, :, :digits])
        weights = signed_digits(self._weight_rows(f, steps.rows), digits)
        fetched = np.take_along_axis(steps.valid[mac][:, :, None], slots, axis=1)
        if not fetched.all() and (weights.any((0, 2)) & ~fetched).any():
            raise DeviceError("a step multiplies a word that it does not fetch")
        channels = f["groups"] * self.config.columns
        matrix = weights.transpose(1, 3, 4, 0, 2).reshape(len(merge), -1, channels)
        totals = np.zeros((steps.outputs, walk.pixels.size, channels), np.int64)
        if walk.seeds is not None:
            seeds = self._byte_columns(f, walk.seeds).transpose(0, 2, 1)
            totals[:] = np.ascontiguousarray(seeds).view("<i4")[..., 0]
        for i in range(steps.outputs):
            part = steps.output == i
            operands = data[:, part].reshape(walk.pixels.size, -1).astype(np.float64)
            # Sums stay below 2^31, so float64 is exact and uses the BLAS.
            product = operands @ matrix[part].reshape(-1, channels).astype(np.float64)
            totals[i:] += product.astype(np.int64)
        return totals

    def _byte_columns(self, f: dict[str, int], words: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Bytes that the columns of all groups take of words given for group 0: (..., channels)."""
        each = np.where(words[..., None] < 0, words[..., None],
                        words[..., None] + np.arange(self._words(f)))  # fmt: skip
        data = self.fetch(each)
        data = data.reshape(*words.shape, -1)
        return data[..., : f["groups"] * self.config.columns]

    def _accumulate_depthwise(self, f: dict[str, int], walk: Walk, mode: Mode) -> NDArray[np.int64]:
        mac = walk.steps.mac
        channels = f["groups"] * self.config.columns
        total = np.zeros((walk.pixels.size, channels), np.int64)
        weights = self._lane_weights(f, walk.steps.rows) if mode is Mode.DEPTHWISE else None
        for step, words in enumerate(np.moveaxis(walk.words[:, mac], 1, 0)):
            for slot in np.flatnonzero(walk.steps.valid[mac][step]):
                data = self._byte_columns(f, words[:, slot])
                if weights is None:
                    np.maximum(total, data, out=total)
                else:
                    total += data.astype(np.int64) * weights[step, slot]
        return total

    def _lane_weights(self, f: dict[str, int], rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """(rows, lanes, channels), signed bytes."""
        raw = self._weight_rows(f, rows).view(np.int8).astype(np.int64)
        return raw.transpose(1, 3, 0, 2).reshape(len(rows), self.config.lanes, -1)

    def _accumulate_window(
        self, f: dict[str, int], parts: list[Walk], total: NDArray[np.int64]
    ) -> None:
        """The window keeps the last three columns pushed, across pixels and rows."""
        width, taps = f["output_width"], self.config.window_taps
        if not taps:
            raise DeviceError(f"core {self.config.name} has no window registers")
        pushed: list[NDArray[np.uint8]] = []  # columns by time: (time, 3 rows, channels)
        times: list[NDArray[np.int64]] = []
        row_pushes, pixel_pushes = int(parts[0].steps.shift.sum()), int(parts[-1].steps.shift.sum())
        prologue = row_pushes - pixel_pushes

        def time(pixels: NDArray[np.int64]) -> NDArray[np.int64]:
            """Pushes before the first of a pixel's own (a row's first pixel owns the prologue)."""
            oy, ox = np.divmod(pixels, width)
            row = oy * (prologue + width * pixel_pushes)
            return row + np.where(ox > 0, prologue + ox * pixel_pushes, 0)

        for walk in parts:
            shift = walk.steps.shift
            words = walk.words[:, shift, :WINDOW_COLUMNS]
            pushed.append(self._byte_columns(f, words).reshape(-1, 3, total.shape[1]))
            times.append((time(walk.pixels)[:, None] + np.arange(shift.sum())).reshape(-1))
        history = np.zeros((sum(p.shape[0] for p in pushed) + WINDOW_COLUMNS, *pushed[0].shape[1:]),
                           np.int64)  # fmt: skip
        for columns, when in zip(pushed, times, strict=True):
            history[when + WINDOW_COLUMNS] = columns
        for walk in parts:
            steps, mac = walk.steps, walk.steps.mac
            before = np.cumsum(steps.shift)[mac]  # pushes of the pixel's own, this step's included
            weights = self._lane_weights(f, steps.rows)
            start = time(walk.pixels)
            for step, (count, phase) in enumerate(zip(before, steps.phase[mac], strict=True)):
                for lane in range(1 if phase else taps):
                    row, column = divmod(8 if phase else lane, WINDOW_COLUMNS)
                    data = history[start + count + column, row]
                    total[walk.pixels] += data * weights[step, lane]

    def _requantizations(self, f: dict[str, int], outputs: int) -> list[Requantization]:
        """One for each output of a pixel."""
        config, groups = self.config, f["groups"]
        words = config.parameter_words_per_group
        cells = self.cells("parameters", f["parameter_base"], groups * outputs * words)
        raw = self.parameters[cells].reshape(groups, outputs, words, config.columns)
        cubes = np.zeros((outputs, groups, config.columns), object)
        for i in range(words):
            cubes += raw[:, :, i].swapaxes(0, 1).astype(object) << (PARAMETER_WORD_BITS * i)
        value = cubes.reshape(outputs, -1)
        constant_bits, multiplier_bits = config.constant_bits, config.multiplier_bits
        constant = value & ((1 << constant_bits) - 1)
        constant = np.where(constant >> (constant_bits - 1), constant - (1 << constant_bits),
                            constant)  # fmt: skip
        multiplier = value >> constant_bits & ((1 << multiplier_bits) - 1)
        shift = value >> (constant_bits + multiplier_bits) & 63
        return [
            Requantization(
                multiplier=multiplier[i].astype(np.int64),
                constant=constant[i].astype(np.int64),
                shift=shift[i].astype(np.int64),
                low=f["low"],
                high=f["high"],
                half_even=bool(f["half_even"]),
            )
            for i in range(outputs)
        ]

    # ---- what an instruction touches -----------------------------------------------------------

    def access(self, opcode: Opcode, f: dict[str, int]) -> Access:
        """Cells an instruction reads and writes; step loads take effect, so that later COMPUTE
        instructions can be walked."""
        reads: dict[str, NDArray[np.int64]] = {}
        writes: dict[str, NDArray[np.int64]] = {}
        entries: list[dict[str, int]] = []
        if opcode is Opcode.COMPUTE:
            parts = self._walk(f)
            entries = [STEP.decode(entry) for entry in self._entries(f)]
            words = np.concatenate([walk.words.reshape(-1) for walk in parts])
            words = np.unique(words[words >= 0])
            if f["mode"] in (Mode.DEPTHWISE, Mode.WINDOW, Mode.MAXIMUM):
                words = np.unique(words[:, None] + np.arange(self._words(f)))
            if f["residual"]:
                words = np.union1d(words, self._residual_words(f))
            for walk in parts:
                if walk.seeds is not None:
                    own = walk.seeds.reshape(-1, 1) + np.arange(self._words(f))
                    words = np.union1d(words, own)
            outputs = parts[0].steps.outputs
            written = output_words(f, outputs, self.config)
            reads["activations"] = words
            writes["activations"] = np.unique(written[..., None] + np.arange(self._words(f)))
            count = f["groups"] * outputs * self.config.parameter_words_per_group
            reads["parameters"] = f["parameter_base"] + np.arange(count)
            reads["steps"] = f["step_base"] + np.arange(f["prologue_count"] + f["step_count"])
            if f["mode"] != Mode.MAXIMUM:
                rows = np.unique(np.concatenate([walk.steps.rows for walk in parts]))
                bases = f["weight_base"] + np.arange(f["groups"]) * f["weight_group_step"]
                reads["weights"] = np.unique(bases[:, None] + rows)
        elif opcode in (Opcode.LOAD_ACTIVATIONS, Opcode.STORE_ACTIVATIONS):
            words_a_pixel = 1 if f.get("fold") else -(-f["channels"] // self.config.lanes)
            width = f["width"] + (f["fold_extra"] if f.get("fold") else 0)
            width = len(range(width)[word_positions(f)])
            cells = np.unique(pixel_words(f, width, words_a_pixel))
            (writes if opcode is Opcode.LOAD_ACTIVATIONS else reads)["activations"] = cells
            window = Window(f["window"])
            if window in (Window.OUTPUT, Window.SCRATCH):  # the memory that programs write
                runs = np.arange(f["segments"]) * f["segment_stride"]
                bytes_ = (f["offset"] + runs[:, None] + np.arange(f["segment_bytes"])).reshape(-1)
                (reads if opcode is Opcode.LOAD_ACTIVATIONS else writes)[window.name] = bytes_
        elif opcode is not Opcode.LOAD_TABLE:  # only loads use the table, and they run in order
            memory, size = {
                Opcode.LOAD_WEIGHTS: ("weights", 1),
                Opcode.LOAD_PARAMETERS: ("parameters", self.config.parameter_words_per_group),
                Opcode.LOAD_STEPS: ("steps", 1),
            }[opcode]
            writes[memory] = f["destination"] + np.arange(f["count"] * size)
            if opcode is Opcode.LOAD_STEPS:
                self.load_steps(f)
        return Access(opcode, f, reads, writes, entries)
