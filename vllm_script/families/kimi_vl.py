"""Kimi-VL: an image keeps its shape, and what it lacks of whole visual tokens is filled up.

It is scaled down to a number of patches and never up; black stands below it and to its right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, ClassVar

import torch
from vllm.model_executor.models.kimi_vl import (
    KimiVLDummyInputsBuilder,
    KimiVLForConditionalGeneration,
    KimiVLMultiModalProcessor,
    KimiVLProcessingInfo,
    MaxImageTokenMeta,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from ..family import Family, Views
from ..frontend.processor import PruningProcessor
from ..layout import Layout
from ..patches.probing import EXISTS, Probes
from ..vllm_types import ProcessingInfo
from ..worker.batch import split_flat
from ..worker.model import PrunedModel
from .boxes import ONE_TILE, whole_boxes


class KimiVLFamily(Family):
    def example(self, hf_config: Any) -> tuple[str, Layout]:
        """Return an image that is not scaled: how large one may be is the processor's to say."""
        return "640x480", _layout(*_grid(hf_config.vision_config, math.inf, 480, 640))

    def image_layout(
        self, info: ProcessingInfo, height: int, width: int, kwargs: Mapping[str, object]
    ) -> Layout:
        """Return the layout under the server's settings, by which vLLM counts, too."""
        limit = info.get_hf_processor().image_processor.in_token_limit
        return _layout(*_grid(info.get_hf_config().vision_config, limit, height, width))

    def item_layout(self, hf_config: Any, modality: str, fields: Mapping[str, Any]) -> Layout:
        height, width = torch.as_tensor(fields["image_grid_hws"]).flatten().tolist()
        down, across = hf_config.vision_config.merge_kernel_size
        return _layout(height // down, width // across)

    def largest_item(self, info: ProcessingInfo, modality: str, max_model_len: int) -> int:
        """Return what vLLM's dummy has; the processor may make larger images of larger ones."""
        layout = self.image_layout(info, MaxImageTokenMeta.height, MaxImageTokenMeta.width, {})
        return layout.num_placeholders

    def views(self, hf_config: Any, layout: Layout, height: int, width: int) -> Views:
        """Return the boxes of the one view.

        How far an image was scaled down is not known here. The boxes are those of as large a one as
        there is room for, which are less than a visual token away.
        """
        down, across = _token_size(hf_config.vision_config)
        rows = layout.num_patches // layout.columns
        filled = rows * down, layout.columns * across
        scale = min(1.0, filled[0] / height, filled[1] / width)
        boxes = whole_boxes(rows, layout.columns, *(round(side / scale) for side in filled))
        return {ONE_TILE: torch.minimum(boxes, torch.tensor([width, height] * 2))}

    def placeholder(self, info: ProcessingInfo, modality: str) -> str:
        return str(KimiVLForConditionalGeneration.get_placeholder_str(modality, 1))


def _token_size(vision_config: Any) -> tuple[int, int]:
    """Height and width in pixels of what becomes one visual token."""
    down, across = (vision_config.patch_size * merged for merged in vision_config.merge_kernel_size)
    return down, across


def _grid(vision_config: Any, limit: float, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of visual tokens of an image.

    Args:
        limit: patches to scale it down to.
        height, width: of the image, in pixels.
    """
    patches = (height // vision_config.patch_size) * (width // vision_config.patch_size)
    if patches > limit:
        scale = math.sqrt(limit / patches)
        height, width = int(height * scale), int(width * scale)
    down, across = _token_size(vision_config)
    return math.ceil(height / down), math.ceil(width / across)


@lru_cache(maxsize=64)
def _layout(rows: int, columns: int) -> Layout:
    return Layout(torch.arange(rows * columns), columns=columns)


class ScriptKimiVLProcessor(PruningProcessor, KimiVLMultiModalProcessor):
    family = KimiVLFamily()


@MULTIMODAL_REGISTRY.register_processor(
    ScriptKimiVLProcessor,
    info=KimiVLProcessingInfo,
    dummy_inputs=KimiVLDummyInputsBuilder,
)
class ScriptKimiVLForConditionalGeneration(PrunedModel, KimiVLForConditionalGeneration):
    family = ScriptKimiVLProcessor.family
    probes: ClassVar[Probes] = {
        "get_encoder_cudagraph_config": (),
        "get_placeholder_str": ("modality", "i"),
        "vllm.model_executor.models.kimi_vl:MaxImageTokenMeta": EXISTS,
    }

    def split(self, fields: dict[str, Any], num_items: int) -> Iterator[dict[str, Any]]:
        return split_flat(fields, fields["image_grid_hws"].prod(-1))
