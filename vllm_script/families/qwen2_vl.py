"""Qwen2-VL: an image or a video is one run of placeholders."""

from __future__ import annotations

from vllm.model_executor.models.qwen2_vl import (
    Qwen2VLDummyInputsBuilder,
    Qwen2VLForConditionalGeneration,
    Qwen2VLMultiModalProcessor,
    Qwen2VLProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from .mrope import MRopePrunedModel
from .qwen_vl import QwenInfo, QwenProcessor, check, example, one_run, patch_views

__all__ = ["check", "example", "patch_views"]


class ScriptQwen2VLInfo(QwenInfo, Qwen2VLProcessingInfo):
    pass


class ScriptQwen2VLProcessor(QwenProcessor, Qwen2VLMultiModalProcessor):
    runs = staticmethod(one_run)


@MULTIMODAL_REGISTRY.register_processor(
    ScriptQwen2VLProcessor,
    info=ScriptQwen2VLInfo,
    dummy_inputs=Qwen2VLDummyInputsBuilder,
)
class ScriptQwen2VLForConditionalGeneration(MRopePrunedModel, Qwen2VLForConditionalGeneration):
    runs = staticmethod(one_run)
