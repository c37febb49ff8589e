"""LLaVA-OneVision: anyres tiles, scaled down where they are many; videos of pooled frames."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from vllm.model_executor.models.llava_onevision import (
    LlavaOnevisionDummyInputsBuilder,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionMultiModalProcessor,
    LlavaOnevisionProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from ..frontend.processor import PruningProcessor
from ..layout import Layout
from ..patches.vllm import merge_llava_onevision_tiles
from ..worker.model import PrunedModel
from .boxes import ONE_TILE, TILES, Views, whole_boxes

POOL_STRIDE = 2
"""Of the frames of a video: vLLM's model and its count of placeholders have it as a constant."""


def check(engine_args: Any, hf_config: Any) -> None:
    """There is no way of running in which these models cannot be pruned."""


def layout_of(hf_config: Any, height: int, width: int) -> Layout:
    """Layout of an image of that size: the base tile's rows, then the grid's with newlines."""
    vision = hf_config.vision_config
    pinpoints = tuple(tuple(size) for size in hf_config.image_grid_pinpoints)
    return _layout_of(vision.image_size, vision.patch_size, pinpoints, height, width)


def patch_views(hf_config: Any, layout: Layout, height: int, width: int) -> Views:
    """The base tile, then the grid without padding, with an empty box for each newline."""
    side = hf_config.vision_config.image_size // hf_config.vision_config.patch_size
    base = whole_boxes(side, side, height, width)
    rows = int((layout.rows < 0).sum())
    columns = (len(layout.rows) - len(base)) // rows - 1
    grid = whole_boxes(rows, columns, height, width).view(rows, columns, 4)
    newlines = torch.zeros(rows, 1, 4, dtype=grid.dtype)
    return {ONE_TILE: base, TILES: torch.cat([grid, newlines], 1).view(-1, 4)}


def example(hf_config: Any) -> tuple[str, Layout]:
    """An image for the start-up line."""
    return "1280x720", layout_of(hf_config, 720, 1280)


@lru_cache(maxsize=512)
def _layout_of(
    tile_size: int, patch_size: int, pinpoints: tuple[tuple[int, ...], ...], height: int, width: int
) -> Layout:
    rows = merge_llava_onevision_tiles(tile_size, patch_size, pinpoints, height, width)
    return Layout(torch.where(rows < 0, -1, torch.arange(len(rows))))


def video_layout(hf_config: Any, num_frames: int) -> Layout:
    """Layout of a video: its frames in one run, then one newline."""
    vision = hf_config.vision_config
    side = -(-(vision.image_size // vision.patch_size) // POOL_STRIDE)
    rows = torch.arange(num_frames * side**2 + 1)
    rows[-1] = -1
    return Layout(rows, num_frames, minimum=num_frames)


class ScriptLlavaOnevisionProcessor(PruningProcessor, LlavaOnevisionMultiModalProcessor):
    modalities = ("image", "video")

    def image_layout(self, height: int, width: int, kwargs: Mapping[str, object]) -> Layout:
        return layout_of(self.info.get_hf_config(), height, width)

    def video_layout(self, fields: Mapping[str, Any]) -> Layout:
        return video_layout(self.info.get_hf_config(), len(fields["pixel_values_videos"]))


@MULTIMODAL_REGISTRY.register_processor(
    ScriptLlavaOnevisionProcessor,
    info=LlavaOnevisionProcessingInfo,
    dummy_inputs=LlavaOnevisionDummyInputsBuilder,
)
class ScriptLlavaOnevisionForConditionalGeneration(
    PrunedModel, LlavaOnevisionForConditionalGeneration
):
    def item_layout(self, modality: str, fields: Mapping[str, Any]) -> Layout:
        if modality == "video":
            return video_layout(self.config, len(fields["pixel_values_videos"][0]))
        ((height, width),) = fields["image_sizes"].tolist()
        return layout_of(self.config, height, width)
