"""Gemma 4: an image keeps its shape, within a number of tokens; each frame of a video is a run.

In the models whose vision tokens see each other in both directions (layers with a sliding window,
on a GPU), vLLM takes the runs from the placeholders of the pruned item. Audio is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, ClassVar

import torch
from transformers.models.gemma4.image_processing_gemma4 import get_aspect_ratio_preserving_size
from vllm.model_executor.models.gemma4_mm import (
    _SUPPORTED_SOFT_TOKENS,
    _VIDEO_MAX_SOFT_TOKENS,
    Gemma4DummyInputsBuilder,
    Gemma4ForConditionalGeneration,
    Gemma4MultiModalProcessor,
    Gemma4ProcessingInfo,
    _get_max_soft_tokens,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.utils.gpu_sync_debug import gpu_sync_allowed

from ..family import Family, Views
from ..frontend.processor import PruningProcessor
from ..layout import Layout
from ..patches.probing import EXISTS, Probes, members
from ..vllm_types import EngineArgs
from ..worker.batch import split_flat
from ..worker.model import PrunedModel
from .boxes import ONE_TILE, whole_boxes
from .counted import CountedInfo
from .drafting import BY_NAME, check_drafts_from_text


class Gemma4Family(Family):
    modalities = ("image", "video")

    def check(self, engine_args: EngineArgs, hf_config: Any) -> None:
        """Raise ValueError for models that draft: vLLM knows those of Gemma 4's own class alone."""
        check_drafts_from_text(engine_args, BY_NAME)

    def example(self, hf_config: Any) -> tuple[str, Layout]:
        most = hf_config.vision_config.default_output_length
        rows, columns = _grid(hf_config.vision_config, 720, 1280, most)
        return "1280x720", replace(_image_layout(rows * columns), columns=columns)

    def image_layout(
        self, info: Any, height: int, width: int, kwargs: Mapping[str, object]
    ) -> Layout:
        """Return as many rows as vLLM counts, and the columns that the processor makes."""
        hf_config = info.get_hf_config()
        most, _ = _get_max_soft_tokens(info.ctx.get_merged_mm_kwargs(kwargs))
        if most not in _SUPPORTED_SOFT_TOKENS:  # vLLM refuses what is not None
            most = hf_config.vision_config.default_output_length
        count = info._compute_num_soft_tokens(width, height, max_soft_tokens=most)
        _, columns = _grid(hf_config.vision_config, height, width, most)
        return replace(_image_layout(count), columns=columns)

    def item_layout(self, hf_config: Any, modality: str, fields: Mapping[str, Any]) -> Layout:
        if modality == "video":
            frames = torch.as_tensor(fields["video_num_soft_tokens"]).flatten().tolist()
            return _video_layout(len(frames), frames[0])
        places = fields["pixel_position_ids"].reshape(-1, 2)
        with gpu_sync_allowed():  # as vLLM does for the same count
            patches = int((places >= 0).all(1).sum())
        return _image_layout(patches // hf_config.vision_config.pooling_kernel_size**2)

    def video_tokens(
        self, info: Any, num_frames: int, height: int, width: int, kwargs: Mapping[str, object]
    ) -> int:
        """Return what all frames have: no frame is left out."""
        of_frame = info._compute_num_soft_tokens(
            width, height, max_soft_tokens=_VIDEO_MAX_SOFT_TOKENS
        )
        return int(num_frames * of_frame)

    def largest_item(self, info: Any, modality: str, max_model_len: int) -> int:
        most = Gemma4ProcessingInfo.get_mm_max_tokens_per_item(info, max_model_len, {modality: 1})
        return int(most[modality])

    def views(self, hf_config: Any, layout: Layout, height: int, width: int) -> Views:
        """Return the boxes of the one view: the image is one tile of its own shape."""
        rows = layout.num_patches // layout.columns
        return {ONE_TILE: whole_boxes(rows, layout.columns, height, width)}

    def frame_boxes(self, hf_config: Any, layout: Layout, height: int, width: int) -> torch.Tensor:
        grid = _grid(hf_config.vision_config, height, width, _VIDEO_MAX_SOFT_TOKENS)
        return whole_boxes(*grid, height, width)


def _grid(vision_config: Any, height: int, width: int, most: int) -> tuple[int, int]:
    """Rows and columns of visual tokens of an image that may have `most` of them."""
    patch, pool = vision_config.patch_size, vision_config.pooling_kernel_size
    resized = get_aspect_ratio_preserving_size(height, width, patch, most * pool**2, pool)
    rows, columns = (side // (patch * pool) for side in resized)
    return rows, columns


@lru_cache(maxsize=64)
def _image_layout(num_tokens: int) -> Layout:
    return Layout(torch.arange(num_tokens))


@lru_cache(maxsize=64)
def _video_layout(num_frames: int, frame_tokens: int) -> Layout:
    """Layout of a video: the prompt has a time stamp before every frame."""
    rows = torch.arange(num_frames * frame_tokens)
    return Layout(rows, num_frames, even=True, minimum=num_frames)


class ScriptGemma4Info(CountedInfo, Gemma4ProcessingInfo):
    probes: ClassVar[Probes] = {
        "_compute_num_soft_tokens": ("image_width", "image_height", "max_soft_tokens")
    }


class ScriptGemma4Processor(PruningProcessor, Gemma4MultiModalProcessor):
    family = Gemma4Family()


@MULTIMODAL_REGISTRY.register_processor(
    ScriptGemma4Processor,
    info=ScriptGemma4Info,
    dummy_inputs=Gemma4DummyInputsBuilder,
)
class ScriptGemma4ForConditionalGeneration(PrunedModel, Gemma4ForConditionalGeneration):
    family = ScriptGemma4Processor.family
    probes = {
        "get_encoder_cudagraph_config": (),
        **members(
            "vllm.model_executor.models.gemma4_mm",
            {
                "_SUPPORTED_SOFT_TOKENS": EXISTS,
                "_VIDEO_MAX_SOFT_TOKENS": EXISTS,
                "_get_max_soft_tokens": ("merged_kwargs",),
            },
        ),
        "vllm.utils.gpu_sync_debug:gpu_sync_allowed": EXISTS,
    }

    def split(self, fields: dict[str, Any], num_items: int) -> Iterator[dict[str, Any]]:
        counts = fields.get("video_frame_counts")
        if counts is None:
            return super().split(fields, num_items)
        return split_flat(fields, counts)
