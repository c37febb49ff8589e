"""Draw a selection: the image with the kept patches bright, and the relevance as a heat map."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw

from ..families.boxes import ONE_TILE, TILES
from ..family import Views

PANEL_WIDTH = 420
PANEL_HEIGHT = 840
NAME_WIDTH = 240
MARGIN = 8
CAPTION = 20
DIMMED = 0.22
"""Brightness of what was removed."""
HEAT = np.array(
    [[13, 8, 135], [126, 3, 168], [204, 71, 120], [248, 149, 64], [240, 249, 33]], float
)
"""Colours from irrelevant to relevant."""


def draw_selection(
    image: Image.Image,
    views: Views,
    kept: torch.Tensor,
    relevance: torch.Tensor | None,
) -> Image.Image:
    """Draw one panel for each way in which the encoder saw the image, and one for relevance.

    Args:
        views: boxes [P, 4] of each view; patches are numbered through all views. Relevance is
            shown on the view in tiles where there is one.
        kept: [K] patches.
        relevance: [patches] in [0, 1], NaN where there is none; None: no panel.
    """
    boxes = torch.cat(list(views.values()))
    image, boxes = fit(image.convert("RGB"), boxes, PANEL_WIDTH, PANEL_HEIGHT)
    panels, ends, parts = {"picture": image}, 0, {}
    for name, view in views.items():
        starts, ends = ends, ends + len(view)
        own = kept[(kept >= starts) & (kept < ends)]
        panels[f"{len(own)} kept of {name}"] = dim(image, boxes[own])
        parts[name] = slice(starts, ends)
    if relevance is not None:
        part = parts[TILES if TILES in parts else ONE_TILE]
        panels["relevance, yellow is high"] = heat(image, boxes[part], relevance[part])
    return _beside_each_other(panels)


def fit(
    image: Image.Image, boxes: torch.Tensor, most_width: int, most_height: int
) -> tuple[Image.Image, torch.Tensor]:
    """Scale both into a panel, which bounds the work whatever the picture's size.

    Args:
        boxes: [patches, 4] in pixels of the image.
        most_width, most_height: of the panel, in pixels.
    """
    scale = min(most_width / image.width, most_height / image.height)
    width, height = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    factors = torch.tensor([width / image.width, height / image.height] * 2)
    how = Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST
    return image.resize((width, height), how), boxes * factors


def dim(image: Image.Image, bright: torch.Tensor) -> Image.Image:
    """Darken everything outside the boxes."""
    pixels = np.asarray(image, dtype=float)
    brightness = np.full(pixels.shape[:2], DIMMED)
    for left, top, right, bottom in _whole_pixels(bright):
        brightness[top:bottom, left:right] = 1.0
    return Image.fromarray((pixels * brightness[..., None]).astype(np.uint8))


def heat(image: Image.Image, boxes: torch.Tensor, relevance: torch.Tensor) -> Image.Image:
    """Colour the boxes by their values, over a pale copy of the image."""
    pixels = np.asarray(image.convert("L").convert("RGB"), dtype=float)
    colored = pixels.copy()
    known = ~relevance.isnan()
    boxes, relevance = boxes[known], relevance[known]
    place = relevance.double().cpu().numpy().clip(0, 1) * (len(HEAT) - 1)
    steps = np.arange(len(HEAT))
    colors = np.stack([np.interp(place, steps, HEAT[:, channel]) for channel in range(3)], -1)
    for (left, top, right, bottom), color in zip(_whole_pixels(boxes), colors, strict=True):
        colored[top:bottom, left:right] = color
    return Image.fromarray((0.35 * pixels + 0.65 * colored).astype(np.uint8))


def _whole_pixels(boxes: torch.Tensor) -> list[list[int]]:
    return boxes.round().long().tolist()


def _beside_each_other(panels: dict[str, Image.Image]) -> Image.Image:
    """One sheet of panels of one size, each under its name."""
    first = next(iter(panels.values()))
    step = max(first.width, NAME_WIDTH) + MARGIN
    size = (len(panels) * step + MARGIN, first.height + CAPTION + MARGIN)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for index, (name, panel) in enumerate(panels.items()):
        left = MARGIN + index * step
        pen.text((left, 4), name, fill="black")
        sheet.paste(panel, (left, CAPTION))
    return sheet
