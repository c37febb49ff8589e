"""What is drawn bright is what was kept."""

import numpy as np
import torch
from PIL import Image

from vllm_script.explain.drawing import CAPTION, DIMMED, MARGIN, PANEL_WIDTH, draw_selection
from vllm_script.families.boxes import ONE_TILE, TILES, whole_boxes

GRID = 4
SIDE = PANEL_WIDTH // GRID


def panel(sheet, index):
    """Grey values of a panel, [GRID, GRID], at the middle of each cell."""
    left = MARGIN + index * (PANEL_WIDTH + MARGIN)
    pixels = np.asarray(sheet.convert("L"))[CAPTION:, left : left + PANEL_WIDTH]
    return pixels[SIDE // 2 :: SIDE, SIDE // 2 :: SIDE][:GRID, :GRID].astype(int)


def test_kept_patches_are_bright_and_views_are_apart():
    image = Image.new("RGB", (PANEL_WIDTH, PANEL_WIDTH), (200, 200, 200))
    base = whole_boxes(GRID, GRID, PANEL_WIDTH, PANEL_WIDTH)
    views = {ONE_TILE: base, TILES: base}
    relevance = torch.full((32,), torch.nan)
    relevance[16:] = torch.linspace(0, 1, 16)
    sheet = draw_selection(image, views, torch.tensor([0, 5, 16 + 15]), relevance)
    assert (panel(sheet, 0) == 200).all()
    bright, dark = 200, int(200 * DIMMED)
    expected = np.full((GRID, GRID), dark)
    expected[0, 0] = expected[1, 1] = bright
    assert abs(panel(sheet, 1) - expected).max() <= 1
    expected = np.full((GRID, GRID), dark)
    expected[3, 3] = bright
    assert abs(panel(sheet, 2) - expected).max() <= 1
    heat = panel(sheet, 3).ravel()
    assert heat.argmax() == 15 and heat.argmin() == 0


def test_one_tile_without_relevance_has_two_panels():
    image = Image.new("RGB", (80, 40))
    sheet = draw_selection(
        image, {ONE_TILE: whole_boxes(GRID, GRID, 40, 80)}, torch.tensor([3]), None
    )
    assert sheet.width == 2 * (PANEL_WIDTH + MARGIN) + MARGIN
