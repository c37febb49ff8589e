"""Frames of a video: which are shown, and what is drawn bright on them."""

import numpy as np
import pytest
import torch
from PIL import Image

from vllm_script.explain.drawing import CAPTION, DIMMED, MARGIN
from vllm_script.explain.film import FRAME_WIDTH, FRAMES_PER_ROW, draw_film, draw_strip, frames_of
from vllm_script.families.boxes import whole_boxes

GRID = 2
SIDE = FRAME_WIDTH // GRID


def greys(picture):
    """Values at the middle of each patch, [GRID, GRID]."""
    return np.asarray(picture.convert("L"))[SIDE // 2 :: SIDE, SIDE // 2 :: SIDE].astype(int)


@pytest.mark.parametrize(
    ("video", "height"),
    [
        (np.arange(6, dtype=np.uint8)[:, None, None, None].repeat(3, 3).repeat(5, 1), 5),
        (torch.arange(6)[:, None, None, None].repeat(1, 3, 5, 4), 5),  # [3, height, width]
        ([Image.new("RGB", (4, 5), (n, n, n)) for n in range(6)], 5),
    ],
)
@pytest.mark.parametrize(
    ("num_frames", "expected"),
    [(None, [0, 1, 2, 3, 4, 5]), (3, [0, 2, 4]), (6, [0, 1, 2, 3, 4, 5]), (4, [0, 1, 3, 4])],
)
def test_frames_that_are_shown(video, height, num_frames, expected):
    for given in video, (video, {"fps": 2.0}):
        frames = frames_of(given, num_frames)
        assert [frame.getpixel((0, 0)) for frame in frames] == [(n, n, n) for n in expected]
        assert all(frame.height == height for frame in frames)


@pytest.mark.parametrize(
    ("total", "num_frames", "expected"),
    [(5, 3, [0, 2, 4]), (7, 4, [0, 2, 4, 6]), (1, 1, [0]), (7, 5, [0, 1, 2, 4, 5])],
)
def test_frames_of_a_clip_that_is_padded(total, num_frames, expected):
    """Qwen makes (0, 1), (2, 3), (4, 4) of five frames; no equal groups make five of seven."""
    video = np.arange(total, dtype=np.uint8)[:, None, None, None].repeat(3, 3)
    frames = frames_of(video, num_frames)
    assert [frame.getpixel((0, 0))[0] for frame in frames] == expected


def test_kept_patches_are_bright_in_their_frame():
    frames = [Image.new("RGB", (FRAME_WIDTH, FRAME_WIDTH), (200, 200, 200))] * 9
    boxes = whole_boxes(GRID, GRID, FRAME_WIDTH, FRAME_WIDTH)
    kept = [0, 5, 6, 35]
    film = draw_film(frames, boxes, kept)
    bright = np.concatenate([greys(drawn).ravel() for drawn in film])
    expected = np.full(36, int(200 * DIMMED))
    expected[kept] = 200
    assert abs(bright - expected).max() <= 1
    assert all((greys(drawn) == 200).all() for drawn in draw_film(frames, boxes, None))

    relevance = torch.linspace(0, 1, 36)
    strip = draw_strip(frames, boxes, film, relevance)
    step, row = FRAME_WIDTH + MARGIN, CAPTION + 2 * (FRAME_WIDTH + MARGIN)
    assert strip.size == (FRAMES_PER_ROW * step + MARGIN, 2 * row)
    last = (MARGIN, row + CAPTION, MARGIN + FRAME_WIDTH, row + CAPTION + FRAME_WIDTH)
    assert (greys(strip.crop(last)) == greys(film[8])).all()
    heat = strip.crop((last[0], last[1] + step, last[2], last[3] + step))
    assert greys(heat).argmax() == 3
    assert draw_strip(frames, boxes, film, None).height == 2 * (CAPTION + step)
