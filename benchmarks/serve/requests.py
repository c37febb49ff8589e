"""The requests of a block: a text and a picture of its own each.

Texts, pictures and arrivals follow from a seed and are the same for all arms of a repetition, but
for a patch of noise in a picture's corner that no other request ever has: servers that prune keep
decoded pictures and encoder outputs whatever the keep ratio, and would know a picture again. So
nothing is answered from a cache. vLLM's own random pictures follow from its seed alone, so they
cannot be alike for all arms and new to every server at once.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

TEXT = """what is shown in this picture describe the image how many people are there and which
colour has the roof of the temple is there a tree to the left of the building read the sign above
the door where is the red car animal largest one written on wall with blue sky"""
FORMATS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
CORNER = 8
"""Side in pixels of the patch of noise."""


@dataclass(frozen=True)
class Request:
    text: str
    width: int
    """In pixels, as `height`."""
    height: int
    url: str
    """The picture as a data URL, JPEG."""

    @property
    def message(self) -> dict[str, Any]:
        """A user message of the chat completions API."""
        image = {"type": "image_url", "image_url": {"url": self.url}}
        return {"role": "user", "content": [{"type": "text", "text": self.text}, image]}


def make_requests(
    pictures: str | Path, tokenizer: Any, text_tokens: int, seed: Sequence[int], count: int
) -> Iterator[Request]:
    """Requests of one block.

    Args:
        pictures: "WIDTHxHEIGHT" in pixels for noise, or a folder, whose pictures take turns.
        tokenizer: counts `text_tokens`, the length of a text.
    """
    files = picture_files(pictures) if isinstance(pictures, Path) else []
    for index in range(count):
        rng = np.random.default_rng([*seed, index])
        text = random_text(rng, tokenizer, text_tokens)
        if files:
            pixels = np.array(Image.open(files[index % len(files)]).convert("RGB"))
        else:
            width, height = size_of(str(pictures))
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        corner = pixels[:CORNER, :CORNER]
        corner[...] = np.random.default_rng().integers(0, 256, corner.shape)
        height, width = pixels.shape[:2]
        yield Request(text, width, height, _data_url(pixels))


def picture_files(folder: Path) -> list[Path]:
    """Pictures in a folder, by name.

    Raises:
        ValueError: there are none.
    """
    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in FORMATS)
    if not files:
        raise ValueError(f"no pictures in {folder}; known are {', '.join(FORMATS)}")
    return files


def size_of(text: str) -> tuple[int, int]:
    """Width and height of "672x672".

    Raises:
        ValueError: it is something else.
    """
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise ValueError(f"a size is WIDTHxHEIGHT in pixels, such as 672x672, got {text!r}")
    return int(width), int(height)


def random_text(rng: np.random.Generator, tokenizer: Any, num_tokens: int) -> str:
    """Words, of exactly that many tokens."""
    for _ in range(100):
        words = " ".join(rng.choice(TEXT.split(), num_tokens))
        token_ids = tokenizer(words, add_special_tokens=False).input_ids[:num_tokens]
        text = tokenizer.decode(token_ids)
        if len(tokenizer(text, add_special_tokens=False).input_ids) == num_tokens:
            return text
    raise ValueError(f"this tokenizer has no text of {num_tokens} tokens; try another length")


def write_dataset(requests: Sequence[Request], path: Path) -> None:
    """Write what `vllm bench serve --dataset-name custom_image` reads."""
    lines = ({"prompt": r.text, "image_files": [r.url]} for r in requests)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _data_url(pixels: np.ndarray) -> str:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
