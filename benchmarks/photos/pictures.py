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

CAPTION = 22
"""Height in pixels of a line of text."""


def draw(
    photo: Photo,
    category: str,
    selections: Mapping[str, torch.Tensor],
    relevance: torch.Tensor,
    path: Path,
) -> None:
    """Write one JPEG: a row for each selection, under its name, and the credit below.

    Args:
        category: what is asked for.
        selections: kept tokens [K] by name.
        relevance: [N] in [0, 1] of a square grid.
    """
    image = Image.open(photo.path).convert("RGB")
    side = math.isqrt(len(relevance))
    views = {ONE_TILE: whole_boxes(side, side, image.height, image.width)}
    rows = [
        (f'{name}, asked for: "{category}"', draw_selection(image, views, kept, relevance))
        for name, kept in selections.items()
    ]
    height = sum(row.height + CAPTION for _, row in rows) + CAPTION
    sheet = Image.new("RGB", (rows[0][1].width, height), "white")
    pen, top = ImageDraw.Draw(sheet), 0
    for caption, row in rows:
        pen.text((8, top + 6), caption, fill="black")
        sheet.paste(row, (0, top + CAPTION))
        top += row.height + CAPTION
    pen.text((8, top + 4), f"photograph: {photo.credit}, {photo.licence}, dimmed", fill="black")
    sheet.save(path, quality=80)
