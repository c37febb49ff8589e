"""Qwen3-VL: in a video there is a time stamp before every frame, so every frame is a run.

A row holds what enters the first layer, and behind it what enters some of the layers after that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from vllm.model_executor.models.qwen3_vl import (
    Qwen3VLDummyInputsBuilder,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMultiModalProcessor,
    Qwen3VLProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from ..patches.position_channels import expect_position_channels
from ..positions import grid_coordinates
from .mrope import MRopePrunedModel
from .qwen_vl import QwenInfo, QwenProcessor, check, example, grid_of, patch_views

__all__ = ["check", "example", "patch_views"]


def frame_runs(hf_config: Any, modality: str, fields: Mapping[str, Any]) -> list[np.ndarray]:
    """Coordinates, [3, tokens] of every frame; an image has one."""
    frames, height, width = grid_of(hf_config, modality, fields)
    return [grid_coordinates(1, height, width)] * frames


class ScriptQwen3VLInfo(QwenInfo, Qwen3VLProcessingInfo):
    pass


class ScriptQwen3VLProcessor(QwenProcessor, Qwen3VLMultiModalProcessor):
    runs = staticmethod(frame_runs)


@MULTIMODAL_REGISTRY.register_processor(
    ScriptQwen3VLProcessor,
    info=ScriptQwen3VLInfo,
    dummy_inputs=Qwen3VLDummyInputsBuilder,
)
class ScriptQwen3VLForConditionalGeneration(MRopePrunedModel, Qwen3VLForConditionalGeneration):
    runs = staticmethod(frame_runs)

    @staticmethod
    def feature_width(hf_config: Any) -> int:
        levels = len(hf_config.vision_config.deepstack_visual_indexes)
        return hf_config.text_config.hidden_size * (1 + levels)

    def _init_video_pruning(self, multimodal_config: Any) -> None:
        """Before the language model is built, which then makes room for more positions."""
        super()._init_video_pruning(multimodal_config)
        expect_position_channels(multimodal_config)
