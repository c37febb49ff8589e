"""Boxes against the pixels that the real image processors hand to the encoder."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    LlavaNextImageProcessor,
    LlavaNextVideoVideoProcessor,
)

from vllm_script.families.boxes import anyres_boxes, cropped_boxes, whole_boxes
from vllm_script.families.llava_next_video import LlavaNextVideoFamily
from vllm_script.layout import Layout

TILE, PATCH = 84, 14
PINPOINTS = ((84, 168), (168, 84), (168, 168), (252, 84), (84, 252))
SIZES = [(168, 168), (100, 300), (333, 100), (480, 640), (97, 41), (170, 160), (500, 333)]
PIXELS = {"do_normalize": False, "do_rescale": False, "return_tensors": "pt"}


def ramp(height, width):
    """A picture whose red says how far right a pixel is, and whose green how far down; blue 255."""
    x = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    y = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    return Image.fromarray(np.stack([x, y, np.full_like(x, 255)], -1).round().astype(np.uint8))


def shown(tiles):
    """[tiles * patches, 3] mean colour of each patch."""
    blocks = tiles.float().unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)
    return blocks.mean((-2, -1)).permute(0, 2, 3, 1).flatten(0, 2)


def compare(boxes, colors, height, width):
    """Boxes of patches that show no padding lie where the ramp says, within 2 % of the image."""
    full = colors[:, 2] > 254
    assert full.sum() > len(colors) / 3
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2 / torch.tensor([width, height])
    assert torch.allclose(middle[full], colors[full, :2].double() / 255, atol=0.02)
    empty = colors[:, 2] < 1
    sides = boxes[:, 2:] - boxes[:, :2]
    assert (sides[empty].amin(1) < 1).all() and (sides[full] > 0).all()


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_anyres(height, width):
    processor = LlavaNextImageProcessor(
        size={"shortest_edge": TILE},
        crop_size={"height": TILE, "width": TILE},
        image_grid_pinpoints=[list(size) for size in PINPOINTS],
    )
    tiles = processor(ramp(height, width), **PIXELS)["pixel_values"][0]
    base = whole_boxes(TILE // PATCH, TILE // PATCH, height, width)
    boxes = torch.cat([base, anyres_boxes(TILE, PATCH, PINPOINTS, height, width)])
    colors = shown(tiles)
    assert len(boxes) == len(colors)
    compare(boxes, colors, height, width)


@pytest.mark.parametrize(("height", "width"), [(84, 84), (168, 168), (100, 300), (480, 640)])
def test_cropped(height, width):
    processor = CLIPImageProcessor(
        size={"shortest_edge": TILE}, crop_size={"height": TILE, "width": TILE}
    )
    tiles = processor(ramp(height, width), **PIXELS)["pixel_values"]
    compare(cropped_boxes(TILE // PATCH, height, width), shown(tiles), height, width)


@pytest.mark.parametrize(("height", "width"), [(84, 84), (100, 300), (480, 640)])
def test_frames_of_llava_next_video(height, width):
    processor = LlavaNextVideoVideoProcessor(
        size={"shortest_edge": TILE}, crop_size={"height": TILE, "width": TILE}
    )
    frames = np.stack([np.asarray(ramp(height, width))] * 3)
    (tiles,) = processor([frames], **PIXELS)["pixel_values_videos"]
    layout = Layout(torch.arange(3 * (TILE // PATCH) ** 2), num_frames=3)
    boxes = LlavaNextVideoFamily().frame_boxes(None, layout, height, width)
    compare(boxes, shown(tiles[:1]), height, width)
