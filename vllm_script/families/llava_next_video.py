"""LLaVA-NeXT-Video: videos of pooled frames, one after the other; vLLM takes no images for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from vllm.model_executor.models.llava_next_video import (
    LlavaNextVideoDummyInputsBuilder,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoMultiModalProcessor,
    LlavaNextVideoProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from ..family import Family
from ..frontend.processor import PruningProcessor
from ..layout import Layout
from ..vllm_types import ProcessingInfo
from ..worker.model import PrunedModel
from .boxes import cropped_boxes


class LlavaNextVideoFamily(Family):
    modalities = ("video",)

    def example(self, hf_config: Any) -> tuple[str, Layout]:
        return "8 frames", self.video_layout(hf_config, 8)

    def image_layout(
        self, info: ProcessingInfo, height: int, width: int, kwargs: Mapping[str, object]
    ) -> Layout:
        raise AssertionError("vLLM takes no images for LLaVA-NeXT-Video")

    def video_layout(self, hf_config: Any, num_frames: int) -> Layout:
        """Return the frames in one run."""
        vision = hf_config.vision_config
        side = -(-(vision.image_size // vision.patch_size) // hf_config.spatial_pool_stride)
        return Layout(torch.arange(num_frames * side**2), num_frames, minimum=num_frames)

    def item_layout(self, hf_config: Any, modality: str, fields: Mapping[str, Any]) -> Layout:
        return self.video_layout(hf_config, num_frames(fields))

    def frame_boxes(self, hf_config: Any, layout: Layout, height: int, width: int) -> torch.Tensor:
        """Return the boxes of the middle of a frame, which is all that the encoder sees."""
        side = math.isqrt(layout.num_patches // layout.num_frames)
        return cropped_boxes(side, height, width)


def num_frames(fields: Mapping[str, Any]) -> int:
    """Return the frames of a processed video, `pixel_values_videos` [frames, 3, height, width].

    vLLM's batch of a single item has one dimension more in front.
    """
    return int(fields["pixel_values_videos"].shape[-4])


class ScriptLlavaNextVideoProcessor(PruningProcessor, LlavaNextVideoMultiModalProcessor):
    family = LlavaNextVideoFamily()


@MULTIMODAL_REGISTRY.register_processor(
    ScriptLlavaNextVideoProcessor,
    info=LlavaNextVideoProcessingInfo,
    dummy_inputs=LlavaNextVideoDummyInputsBuilder,
)
class ScriptLlavaNextVideoForConditionalGeneration(
    PrunedModel, LlavaNextVideoForConditionalGeneration
):
    family = ScriptLlavaNextVideoProcessor.family
