"""Pictures to send: some that come again and again, and others that nobody has seen."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from ..common import data_url
from ..serving.requests import Size

SIZES = ((1.0, 1.0), (2.0, 2.0), (2.6, 1.7), (0.9, 1.4), (4.0, 3.0), (0.3, 2.0), (3.0, 0.6))
"""Width and height in tiles of the model: square, wide and tall, smaller than a tile and larger
than all of them."""

KNOWN = 40
"""Pictures that come again; the n-th 1/n times as often as the first."""


@dataclass(frozen=True)
class Picture:
    """A picture to send."""

    size: Size
    url: str
    """A data URL, JPEG."""

    @property
    def part(self) -> dict[str, Any]:
        """Part of a message of the chat completions API."""
        return {"type": "image_url", "image_url": {"url": self.url}}


def any_picture(rng: random.Random, tile: int) -> Picture:
    """One that has come before, or will come again, or one that nobody has seen.

    Args:
        tile: side of a tile of the model in pixels.
    """
    if rng.random() >= 0.6:
        return fresh_picture(rng, tile)
    (number,) = rng.choices(range(KNOWN), [1 / (number + 1) for number in range(KNOWN)])
    return _known(number, tile)


@cache
def _known(number: int, tile: int) -> Picture:
    return fresh_picture(random.Random(f"known {number}"), tile, SIZES[number % len(SIZES)])


def fresh_picture(
    rng: random.Random, tile: int, size: tuple[float, float] | None = None
) -> Picture:
    """Smooth waves of colour under noise, that nobody has seen; `size` in tiles."""
    width, height = (max(1, round(side * tile)) for side in size or rng.choice(SIZES))
    generator = np.random.default_rng(rng.getrandbits(64))
    y, x = np.mgrid[:height, :width]
    waves = generator.uniform(0, 40, (3, 2)) / max(width, height)
    smooth = np.stack([np.sin(a * x + b * y) for a, b in waves], -1)
    pixels = 127 + 90 * smooth + generator.normal(0, 15, smooth.shape)
    return Picture(Size(width, height), data_url(pixels.clip(0, 255).astype(np.uint8)))
