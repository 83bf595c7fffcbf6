# SPDX-License-Identifier: Apache-2.0
"""The memories of the reference device, and loads and stores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bitloop.hw.config import CoreConfig
from bitloop.hw.isa import STEP, Window

from ..errors import DeviceError

TABLE_BYTES = 256


class Memories:
    """RAMs of a core, its memory windows, and the instructions that move data between them.

    Every method raises `DeviceError` for an address outside a RAM or window.
    """

    def __init__(self, config: CoreConfig, image: bytes) -> None:
        self.config = config
        self.windows: dict[Window, NDArray[np.uint8]] = {}
        self._program = np.frombuffer(image, np.uint8)
        lanes, columns = config.lanes, config.columns
        self.activations = np.zeros((config.activation_words + 2, lanes), np.uint8)
        """The last two rows are the padding and 0, which addresses -1 and -2 fetch."""
        self.weights = np.zeros((config.weight_rows, columns, lanes), np.uint8)
        self.parameters = np.zeros((config.parameter_words, columns), np.uint64)
        self.steps: list[bytes] = [bytes(STEP.bits // 8)] * config.step_entries
        self.table = np.zeros(TABLE_BYTES, np.uint8)

    # ---- loads and stores ----------------------------------------------------------------------

    def read(self, f: dict[str, int], count: int, offset: int) -> NDArray[np.uint8]:
        window = Window(f["window"])
        data = self._program if window is Window.PROGRAM else self.windows[window]
        if offset + count > data.size:
            raise DeviceError(
                f"a load of {count} bytes at {offset} leaves the {window.name} window of "
                f"{data.size}"
            )
        return data[offset : offset + count]

    def cells(self, memory: str, start: int, count: int) -> slice:
        depth = {
            "weights": self.config.weight_rows,
            "parameters": self.config.parameter_words,
            "steps": self.config.step_entries,
        }[memory]
        if start + count > depth:
            raise DeviceError(f"{memory} {start}..{start + count - 1} exceed the RAM of {depth}")
        return slice(start, start + count)

    def load_weights(self, f: dict[str, int]) -> None:
        count, config = f["count"], self.config
        raw = self.read(f, count * config.weight_row_bytes, f["offset"])
        cells = self.cells("weights", f["destination"], count)
        self.weights[cells] = raw.reshape(count, config.columns, config.lanes)

    def load_parameters(self, f: dict[str, int]) -> None:
        words, columns = self.config.parameter_words_per_group, self.config.columns
        raw = self.read(f, f["count"] * columns * 4 * (words + 1), f["offset"])
        data = raw.view("<u4").reshape(f["count"], columns, words + 1).astype(np.uint64)
        nibbles = np.uint64(4) * np.arange(words, dtype=np.uint64)
        high = (data[:, :, :1] >> nibbles) & np.uint64(15)
        full = data[:, :, 1:] | high << np.uint64(32)
        cells = self.cells("parameters", f["destination"], f["count"] * words)
        self.parameters[cells] = full.transpose(0, 2, 1).reshape(-1, columns)

    def load_steps(self, f: dict[str, int]) -> None:
        size = STEP.bits // 8
        raw = self.read(f, f["count"] * size, f["offset"]).tobytes()
        cells = self.cells("steps", f["destination"], f["count"])
        self.steps[cells] = [raw[i : i + size] for i in range(0, len(raw), size)]

    def load_table(self, f: dict[str, int]) -> None:
        self.table = self.read(f, TABLE_BYTES, f["offset"]).copy()

    def load_activations(self, f: dict[str, int]) -> None:
        runs = [
            self.read(f, f["segment_bytes"], f["offset"] + i * f["segment_stride"])
            for i in range(f["segments"])
        ]
        height, width, channels = f["height"], f["width"], f["channels"]
        stream = np.concatenate(runs)
        if stream.size != height * width * channels:
            raise DeviceError(f"a load of {stream.size} bytes for {height}x{width}x{channels}")
        pixels = stream.reshape(height, width, channels)
        if f["signed_codes"]:
            pixels = pixels ^ np.uint8(0x80)
        if f["table"]:
            pixels = self.table[pixels]
        lanes, fold = self.config.lanes, f["fold"]
        if fold:
            if channels > 4 or fold * channels > lanes:
                raise DeviceError(f"cannot fold {fold} pixels of {channels} channels")
            if f["fold_phase"] > f["fold_skip"]:
                raise DeviceError(
                    f"the first folded pixel with a word is {f['fold_phase']}, of every "
                    f"{f['fold_skip'] + 1}"
                )
            shape = (height, width + f["fold_extra"] + fold - 1, channels)
            padded = np.full(shape, f["fill"], np.uint8)
            padded[:, fold - 1 : fold - 1 + width] = pixels
            parts = [padded[:, i : i + width + f["fold_extra"]] for i in range(fold)]
            pixels = np.concatenate(parts, axis=2)[:, word_positions(f)]
        addresses = pixel_words(f, pixels.shape[1], -(-pixels.shape[2] // lanes))
        self.check_words(addresses)
        shape = (*pixels.shape[:2], addresses.shape[2] * lanes)
        words = np.full(shape, f["fill"] if fold else 0, np.uint8)
        words[:, :, : pixels.shape[2]] = pixels
        self.activations[addresses] = words.reshape(*addresses.shape, lanes)

    def store_activations(self, f: dict[str, int]) -> None:
        channels = f["channels"]
        addresses = pixel_words(f, f["width"], -(-channels // self.config.lanes))
        self.check_words(addresses)
        words = self.activations[addresses].reshape(f["height"], f["width"], -1)
        stream = words[:, :, :channels].reshape(-1)
        if f["signed_codes"]:
            stream = stream ^ np.uint8(0x80)
        window = self.windows[Window(f["window"])]
        size = f["segment_bytes"]
        if f["segments"] * size != stream.size:
            raise DeviceError(f"a store of {stream.size} bytes in {f['segments']} of {size}")
        for i in range(f["segments"]):
            start = f["offset"] + i * f["segment_stride"]
            if start + size > window.size:
                raise DeviceError(f"a store to byte {start + size} of {window.size}")
            window[start : start + size] = stream[i * size : (i + 1) * size]

    def check_words(self, addresses: NDArray[np.int64]) -> None:
        if addresses.size and addresses.max() >= self.config.activation_words:
            raise DeviceError(
                f"activation word {addresses.max()} exceeds the RAM of "
                f"{self.config.activation_words}"
            )

    def fetch(self, words: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(..., lanes): -1 is padding, -2 is 0."""
        depth = self.config.activation_words
        return self.activations[np.where(words < 0, depth - 1 - words, words)]


def word_positions(f: dict[str, int]) -> slice:
    """Of the positions 0 .. width + fold_extra - 1 of a row, those that LOAD_ACTIVATIONS writes
    words for."""
    if not f.get("fold"):
        return slice(None)
    return slice(f["fold_phase"], None, f["fold_skip"] + 1)


def pixel_words(f: dict[str, int], width: int, words: int) -> NDArray[np.int64]:
    """(height, width, words) addresses of a load's or store's pixels."""
    row = f["destination"] + np.arange(f["height"]) * f["row_step"]
    return row[:, None, None] + np.arange(width * words).reshape(width, words)
