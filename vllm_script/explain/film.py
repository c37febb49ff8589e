"""Draw the selection of a video: its frames with the kept patches bright, as a film and a strip."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from .drawing import CAPTION, MARGIN, dim, fit, heat

FRAME_WIDTH, FRAME_HEIGHT = 240, 240
"""The most pixels that a drawn frame has."""
FRAMES_PER_ROW = 8
FRAME_MILLISECONDS = 500
"""For which a frame of the film is shown."""


def frames_of(video: Any, num_frames: int | None) -> list[Image.Image]:
    """Return the frames of a video as pictures.

    Args:
        video: as vLLM has it: frames [height, width, 3] or [3, height, width], uint8, in an array
            or list; or a pair of these and what the file says.
        num_frames: that the encoder makes of them; None: all. Where it makes one of several, the
            first of these is returned; the last may be one of fewer, as processors pad clips. Where
            the Hugging Face processor takes some by itself, these are the nearest.
    """
    frames = video[0] if isinstance(video, tuple) else video
    total = len(frames)
    count = total if num_frames is None else num_frames
    step = -(-total // count)
    if -(-total // step) == count:
        return [_picture(frames[first]) for first in range(0, total, step)]
    return [_picture(frames[index * total // count]) for index in range(count)]


def _picture(frame: Any) -> Image.Image:
    """One frame as a picture."""
    if isinstance(frame, Image.Image):
        return frame.convert("RGB")
    pixels = np.asarray(frame.cpu() if isinstance(frame, torch.Tensor) else frame)
    if pixels.shape[-1] != 3:
        pixels = np.moveaxis(pixels, 0, -1)
    return Image.fromarray(pixels.astype(np.uint8))


def draw_film(
    frames: list[Image.Image], boxes: torch.Tensor, kept: list[int] | None
) -> list[Image.Image]:
    """Draw every frame with everything dark but its kept patches.

    Args:
        boxes: [patches of a frame, 4] as in `Views`.
        kept: patches, numbered through all frames; None: the video is left whole.
    """
    drawn = []
    for index, frame in enumerate(frames):
        small, places = fit(frame, boxes, FRAME_WIDTH, FRAME_HEIGHT)
        if kept is None:
            drawn.append(small)
            continue
        first = index * len(boxes)
        own = [patch - first for patch in kept if first <= patch < first + len(boxes)]
        drawn.append(dim(small, places[own]))
    return drawn


def draw_strip(
    frames: list[Image.Image],
    boxes: torch.Tensor,
    film: list[Image.Image],
    relevance: torch.Tensor | None,
) -> Image.Image:
    """Draw a sheet of all frames, row by row, and below each its relevance.

    Args:
        boxes: [patches of a frame, 4] as in `Views`.
        film: of the same frames, as `draw_film` returns it.
        relevance: [frames * patches] in [0, 1]; None: no drawings of it.
    """
    columns = [[drawn] for drawn in film]
    if relevance is not None:
        for index, (frame, column) in enumerate(zip(frames, columns, strict=True)):
            small, places = fit(frame, boxes, FRAME_WIDTH, FRAME_HEIGHT)
            first = index * len(boxes)
            column.append(heat(small, places, relevance[first : first + len(boxes)]))
    width, height = film[0].width + MARGIN, film[0].height
    row_height = CAPTION + len(columns[0]) * (height + MARGIN)
    rows = -(-len(columns) // FRAMES_PER_ROW)
    across = min(len(columns), FRAMES_PER_ROW)
    sheet = Image.new("RGB", (across * width + MARGIN, rows * row_height), "white")
    pen = ImageDraw.Draw(sheet)
    for index, column in enumerate(columns):
        row, place = divmod(index, FRAMES_PER_ROW)
        left, top = MARGIN + place * width, row * row_height
        pen.text((left, top + 4), f"frame {index + 1}", fill="black")
        for number, drawn in enumerate(column):
            sheet.paste(drawn, (left, top + CAPTION + number * (height + MARGIN)))
    return sheet
