"""Pictures to look at: what some selections keep of a photograph for one object."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from vllm_script.explain.drawing import draw_selection
from vllm_script.families.boxes import ONE_TILE, whole_boxes

from .folder import Photo
from .truth import Region

CAPTION = 22
"""Height in pixels of a line of text."""


def draw(
    photo: Photo,
    thing: Region,
    selections: Mapping[str, torch.Tensor],
    relevance: torch.Tensor,
    path: Path,
) -> None:
    """Write one JPEG: what each selection keeps, then what is asked for and its relevance.

    Args:
        selections: kept tokens [K] by name.
        relevance: [N] in [0, 1] of a square grid.
    """
    image = Image.open(photo.path).convert("RGB")
    num_tokens = len(relevance)
    side = math.isqrt(num_tokens)
    boxes = whole_boxes(side, side, image.height, image.width)
    views = {f"{num_tokens} by {name}": boxes for name in selections}
    kept = torch.cat([own + i * num_tokens for i, own in enumerate(selections.values())])
    inside = thing.tokens.nonzero()[:, 0]
    rows = {
        f'asked for: "{thing.category}"': draw_selection(image, views, kept, None),
        "its own tokens, and the relevance": draw_selection(
            image, {ONE_TILE: boxes}, inside, relevance
        ),
        f"photograph, dimmed: {photo.credit}, {photo.licence}": None,
    }
    drawn = [row for row in rows.values() if row is not None]
    height = sum(row.height for row in drawn) + len(rows) * CAPTION
    sheet = Image.new("RGB", (max(row.width for row in drawn), height), "white")
    pen, top = ImageDraw.Draw(sheet), 0
    for caption, row in rows.items():
        pen.text((8, top + 6), caption, fill="black")
        top += CAPTION
        if row is not None:
            sheet.paste(row, (0, top))
            top += row.height
    sheet.save(path, quality=60)
