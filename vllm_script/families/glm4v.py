"""GLM-4.1V, GLM-4.5V and GLM-4.6V: grids as in Qwen3-VL, every frame of a video between marks.

The frames of a video are runs of the image's token, with marks around each and a time stamp behind
it. Only the marks around the whole video, and the token types of transformers, tell it from images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers.models.glm4v.image_processing_glm4v import smart_resize
from vllm.exceptions import VLLMValidationError
from vllm.model_executor.models.glm4_1v import (
    Glm4vDummyInputsBuilder,
    Glm4vForConditionalGeneration,
    Glm4vMoeForConditionalGeneration,
    Glm4vMultiModalProcessor,
    Glm4vProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from .counted import CountedInfo
from .mrope import MRopeProcessor
from .qwen_vl import Qwen3Family, QwenModel


class GlmFamily(Qwen3Family):
    """GLM-4.1V, GLM-4.5V and GLM-4.6V, whether the language model is dense or has experts."""

    def marks(self, modality: str) -> tuple[str, str]:
        return f"<|begin_of_{modality}|>", f"<|end_of_{modality}|>"

    def resized(
        self, info: Any, height: int, width: int, kwargs: Mapping[str, object]
    ) -> tuple[int, int]:
        """Return what the image processor makes of a size: vLLM's own count has no lower bound."""
        processor = info.get_image_processor(**kwargs)
        settings = info.ctx.get_merged_mm_kwargs(kwargs)
        settings = {**settings, **settings.get("images_kwargs", {})}
        if not settings.get("do_resize", processor.do_resize):
            return height, width
        size = dict(settings.get("size", processor.size))
        if not {"shortest_edge", "longest_edge"} <= set(size):
            raise VLLMValidationError(
                "size in mm_processor_kwargs needs shortest_edge and longest_edge, the fewest and "
                f"the most pixels; got {sorted(size)}",
                parameter="mm_processor_kwargs",
            )
        resized_height, resized_width = smart_resize(
            num_frames=processor.temporal_patch_size,
            height=height,
            width=width,
            temporal_factor=processor.temporal_patch_size,
            factor=processor.patch_size * processor.merge_size,
            min_pixels=size["shortest_edge"],
            max_pixels=size["longest_edge"],
        )
        return int(resized_height), int(resized_width)

    def largest_item(self, info: Any, modality: str, max_model_len: int) -> int:
        """Return stock's answer, which for GLM-4.6V has the text between frames in it, too."""
        counts = {modality: 1}
        known = Glm4vProcessingInfo.get_mm_max_tokens_per_item(info, max_model_len, counts)
        if known is not None:  # whatever the context
            return min(int(known[modality]), max_model_len)
        if modality == "image":
            return int(info.get_max_image_tokens())
        width, height = info.get_image_size_with_most_features()
        frames = info.get_num_frames_with_most_features(max_model_len, counts)
        _, tokens = info._get_vision_info(
            image_width=width,
            image_height=height,
            num_frames=max(frames, FEWEST_FRAMES),
            max_image_pixels=info._get_video_max_pixels(),
        )
        return int(tokens)


FEWEST_FRAMES = 2
"""Of vLLM's dummy of a video."""


class ScriptGlm4vInfo(CountedInfo, Glm4vProcessingInfo):
    probes = {
        "get_image_processor": ("kwargs",),
        "get_max_image_tokens": (),
        "get_image_size_with_most_features": (),
        "get_num_frames_with_most_features": frozenset({"seq_len", "mm_counts"}),
        "_get_video_max_pixels": (),
        "_get_vision_info": frozenset(
            {"image_width", "image_height", "num_frames", "max_image_pixels"}
        ),
    }


class ScriptGlm4vProcessor(MRopeProcessor, Glm4vMultiModalProcessor):
    family = GlmFamily()


@MULTIMODAL_REGISTRY.register_processor(
    ScriptGlm4vProcessor,
    info=ScriptGlm4vInfo,
    dummy_inputs=Glm4vDummyInputsBuilder,
)
class ScriptGlm4vForConditionalGeneration(QwenModel, Glm4vForConditionalGeneration):
    family = ScriptGlm4vProcessor.family


@MULTIMODAL_REGISTRY.register_processor(
    ScriptGlm4vProcessor,
    info=ScriptGlm4vInfo,
    dummy_inputs=Glm4vDummyInputsBuilder,
)
class ScriptGlm4vMoeForConditionalGeneration(QwenModel, Glm4vMoeForConditionalGeneration):
    family = ScriptGlm4vProcessor.family
