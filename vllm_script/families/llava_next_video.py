"""LLaVA-NeXT-Video: videos of pooled frames, one after the other; vLLM takes no images for it."""

from __future__ import annotations

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

from ..frontend.processor import PruningProcessor
from ..layout import Layout
from ..worker.model import PrunedModel


def check(engine_args: Any, hf_config: Any) -> None:
    """There is no way of running in which this model cannot be pruned."""


def example(hf_config: Any) -> tuple[str, Layout]:
    """A video for the start-up line."""
    return "8 frames", video_layout(hf_config, 8)


def video_layout(hf_config: Any, num_frames: int) -> Layout:
    """Layout of a video: its frames in one run."""
    vision = hf_config.vision_config
    side = -(-(vision.image_size // vision.patch_size) // hf_config.spatial_pool_stride)
    return Layout(torch.arange(num_frames * side**2), num_frames, minimum=num_frames)


class ScriptLlavaNextVideoProcessor(PruningProcessor, LlavaNextVideoMultiModalProcessor):
    modalities = ("video",)

    def video_layout(self, fields: Mapping[str, Any]) -> Layout:
        return video_layout(self.info.get_hf_config(), len(fields["pixel_values_videos"]))


@MULTIMODAL_REGISTRY.register_processor(
    ScriptLlavaNextVideoProcessor,
    info=LlavaNextVideoProcessingInfo,
    dummy_inputs=LlavaNextVideoDummyInputsBuilder,
)
class ScriptLlavaNextVideoForConditionalGeneration(
    PrunedModel, LlavaNextVideoForConditionalGeneration
):
    def item_layout(self, modality: str, fields: Mapping[str, Any]) -> Layout:
        return video_layout(self.config, len(fields["pixel_values_videos"][0]))
