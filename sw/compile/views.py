# SPDX-License-Identifier: Apache-2.0
"""Views: tensors that are part of another tensor's memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .layout import Layout


@dataclass(frozen=True)
class View:
    """Pixel (y, x), channel c of the view is pixel (start_y + y * step_y, start_x + x * step_x),
    channel start_c + c of `of`, which may be a view itself.

    `start_c` is a multiple of the lanes. A view that a layer writes owns its last word whole: no
    other view of the same pixels begins in it.
    """

    of: str
    start: tuple[int, int, int] = (0, 0, 0)
    """Row, column, channel."""
    step: tuple[int, int] = (1, 1)
    """Rows and columns of `of` from one to the next of the view."""
    reshaped: bool = False
    """All of `of`, word after word, counted as pixels of another shape; `of` is no view unless
    reshaped too, and its root must lie without gaps."""

    def lies(self, layout: Layout, shape: tuple[int, int, int], lanes: int) -> tuple[int, Layout]:
        """(words from the first of `of`, which lies as `layout`, to the view's; its layout)."""
        height, width, channels = shape
        words = -(-channels // lanes)
        if self.reshaped:
            return 0, Layout(height, width, channels, words, words, width * words)
        row, column, channel = self.start
        offset = row * layout.row_step + column * layout.pixel_step + channel // lanes
        own = replace(
            layout,
            height=height,
            width=width,
            channels=channels,
            pixel_words=words,
            pixel_step=layout.pixel_step * self.step[1],
            row_step=layout.row_step * self.step[0],
        )
        return offset, own
