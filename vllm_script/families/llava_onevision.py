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

from ..family import Family, Views
from ..frontend.processor import PruningProcessor
from ..layout import Layout
from ..vllm_types import ProcessingInfo
from ..worker.model import PrunedModel
from .anyres import ANYRES_PROBES, NEWLINE, Anyres, merged_patch_numbers
from .boxes import ONE_TILE, TILES, square_boxes, whole_boxes
from .llava_next_video import num_frames

POOL_STRIDE = 2
"""How much frames of a video are scaled down: vLLM's model has it as a constant, and so has its
count of placeholders."""


class LlavaOnevisionFamily(Family):
    modalities = ("image", "video")

    def example(self, hf_config: Any) -> tuple[str, Layout]:
        return "1280x720", _image_layout(Anyres.of(hf_config), 720, 1280)

    def image_layout(
        self, info: ProcessingInfo, height: int, width: int, kwargs: Mapping[str, object]
    ) -> Layout:
        """Return the base tile's rows, then the grid's with newlines."""
        return _image_layout(Anyres.of(info.get_hf_config()), height, width)

    def video_layout(self, hf_config: Any, num_frames: int) -> Layout:
        """Return the frames in one run, then one newline."""
        side = -(-Anyres.of(hf_config).tile_side // POOL_STRIDE)
        rows = torch.arange(num_frames * side**2 + 1)
        rows[-1] = -1
        return Layout(rows, num_frames, minimum=num_frames)

    def item_layout(self, hf_config: Any, modality: str, fields: Mapping[str, Any]) -> Layout:
        if modality == "video":
            return self.video_layout(hf_config, num_frames(fields))
        height, width = fields["image_sizes"].flatten().tolist()
        return _image_layout(Anyres.of(hf_config), height, width)

    def views(self, hf_config: Any, layout: Layout, height: int, width: int) -> Views:
        """Return the boxes of the base tile, then of the grid, with an empty one per newline."""
        side = Anyres.of(hf_config).tile_side
        base = whole_boxes(side, side, height, width)
        rows = int((layout.rows < 0).sum())
        columns = (len(layout.rows) - len(base)) // rows - 1
        grid = whole_boxes(rows, columns, height, width).view(rows, columns, 4)
        newlines = torch.zeros(rows, 1, 4, dtype=grid.dtype)
        return {ONE_TILE: base, TILES: torch.cat([grid, newlines], 1).view(-1, 4)}

    def frame_boxes(self, hf_config: Any, layout: Layout, height: int, width: int) -> torch.Tensor:
        return square_boxes(layout, height, width)


@lru_cache(maxsize=512)
def _image_layout(anyres: Anyres, height: int, width: int) -> Layout:
    """Layout of an image, whose rows are numbered as they are: they may be mixtures of patches."""
    merge = LlavaOnevisionForConditionalGeneration._merge_image_patch_embeddings
    rows = merged_patch_numbers(merge, anyres, height, width, image_newline=NEWLINE)
    return Layout(torch.where(rows < 0, -1, torch.arange(len(rows))))


class ScriptLlavaOnevisionProcessor(PruningProcessor, LlavaOnevisionMultiModalProcessor):
    family = LlavaOnevisionFamily()


@MULTIMODAL_REGISTRY.register_processor(
    ScriptLlavaOnevisionProcessor,
    info=LlavaOnevisionProcessingInfo,
    dummy_inputs=LlavaOnevisionDummyInputsBuilder,
)
class ScriptLlavaOnevisionForConditionalGeneration(
    PrunedModel, LlavaOnevisionForConditionalGeneration
):
    family = ScriptLlavaOnevisionProcessor.family
    probes = {
        "_merge_image_patch_embeddings": (
            *("image_size", "patch_embeddings", "image_newline"),
            *("vision_aspect_ratio", "strategy"),
        ),
        **ANYRES_PROBES,
    }
