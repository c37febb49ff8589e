"""Qwen2.5-VL: an image or a video is one run of placeholders."""

from __future__ import annotations

from vllm.model_executor.models.qwen2_5_vl import (
    Qwen2_5_VLDummyInputsBuilder,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLMultiModalProcessor,
    Qwen2_5_VLProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from .mrope import MRopePrunedModel
from .qwen_vl import QwenInfo, QwenProcessor, check, example, one_run, patch_views

__all__ = ["check", "example", "patch_views"]


class ScriptQwen2_5_VLInfo(QwenInfo, Qwen2_5_VLProcessingInfo):
    pass


class ScriptQwen2_5_VLProcessor(QwenProcessor, Qwen2_5_VLMultiModalProcessor):
    runs = staticmethod(one_run)


@MULTIMODAL_REGISTRY.register_processor(
    ScriptQwen2_5_VLProcessor,
    info=ScriptQwen2_5_VLInfo,
    dummy_inputs=Qwen2_5_VLDummyInputsBuilder,
)
class ScriptQwen2_5_VLForConditionalGeneration(
    MRopePrunedModel, Qwen2_5_VLForConditionalGeneration
):
    runs = staticmethod(one_run)
