"""The requests of a block: a text and a picture or video of its own each.

Texts, pictures and arrivals follow from a seed and are the same for all arms of a repetition, but
for a patch of noise in a picture's corner that no other request ever has: servers that prune keep
decoded pictures and encoder outputs whatever the keep ratio, and would know a picture again. So
nothing is answered from a cache. vLLM's own random pictures follow from its seed alone, so they
cannot be alike for all arms and new to every server at once.

A video is sent as its frames: vLLM takes a data URL of JPEGs, so no codec is in the times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..common import data_url

TEXT = """what is shown in this picture describe the image how many people are there and which
colour has the roof of the temple is there a tree to the left of the building read the sign above
the door where is the red car animal largest one written on wall with blue sky"""
FORMATS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
CORNER = 8
"""Side in pixels of the patch of noise."""


class Size(NamedTuple):
    """Size of a picture or video: width and height in pixels, and frames of a video."""

    width: int
    height: int
    frames: int | None = None

    @property
    def modality(self) -> str:
        return "image" if self.frames is None else "video"

    def __str__(self) -> str:
        return "x".join(str(number) for number in (self.frames, *self[:2]) if number is not None)


@dataclass(frozen=True)
class Request:
    """A question about a picture or video."""

    text: str
    size: Size
    """Size of the picture or video."""
    url: str
    """The picture or video as a data URL of JPEGs."""

    @property
    def message(self) -> dict[str, Any]:
        """A user message of the chat completions API."""
        kind = f"{self.size.modality}_url"
        shown = {"type": kind, kind: {"url": self.url}}
        return {"role": "user", "content": [{"type": "text", "text": self.text}, shown]}


def make_requests(
    pictures: str | Path, tokenizer: Any, text_tokens: int, seed: Sequence[int], count: int
) -> Iterator[Request]:
    """Requests of one block.

    Args:
        pictures: a size for noise, as `size_of` reads it, or a folder, whose pictures take turns.
        tokenizer: counts `text_tokens`, the length of a text.
    """
    files = picture_files(pictures) if isinstance(pictures, Path) else []
    for index in range(count):
        rng = np.random.default_rng([*seed, index])
        text = random_text(rng, tokenizer, text_tokens)
        if files:
            pixels = np.array(Image.open(files[index % len(files)]).convert("RGB"))
        else:
            width, height, frames = size_of(str(pictures))
            shape = (height, width, 3) if frames is None else (frames, height, width, 3)
            pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        corner = pixels[..., :CORNER, :CORNER, :]
        corner[...] = np.random.default_rng().integers(0, 256, corner.shape)
        *frames_if_any, height, width, _ = pixels.shape
        yield Request(text, Size(width, height, *frames_if_any), data_url(pixels))


def picture_files(folder: Path) -> list[Path]:
    """Pictures in a folder, by name.

    Raises:
        ValueError: there are none.
    """
    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in FORMATS)
    if not files:
        raise ValueError(f"no pictures in {folder}; known are {', '.join(FORMATS)}")
    return files


def size_of(text: str) -> Size:
    """Size of the picture "672x672" or the video "16x336x336".

    Raises:
        ValueError: it is something else.
    """
    numbers = text.split("x")
    if len(numbers) not in (2, 3) or not all(n.isdigit() and int(n) for n in numbers):
        raise ValueError(
            f"a size is WIDTHxHEIGHT in pixels, such as 672x672, or FRAMESxWIDTHxHEIGHT, got "
            f"{text!r}"
        )
    *frames, width, height = map(int, numbers)
    return Size(width, height, *frames)


def random_text(rng: np.random.Generator, tokenizer: Any, num_tokens: int) -> str:
    """Words, of exactly that many tokens."""
    for _ in range(100):
        words = " ".join(rng.choice(TEXT.split(), num_tokens))
        token_ids = tokenizer(words, add_special_tokens=False).input_ids[:num_tokens]
        text: str = tokenizer.decode(token_ids)
        if len(tokenizer(text, add_special_tokens=False).input_ids) == num_tokens:
            return text
    raise ValueError(f"this tokenizer has no text of {num_tokens} tokens; try another length")
