"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL and its MoE: an image keeps its own shape, positions are M-RoPE's.

In Qwen2-VL and Qwen2.5-VL an image or a video is one run of placeholders. In Qwen3-VL there is a
time stamp before every frame of a video, so every frame is a run; and a row holds what enters the
first layer, and behind it what enters some of the layers after that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from vllm.model_executor.models.qwen2_5_vl import (
    Qwen2_5_VLDummyInputsBuilder,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLMultiModalProcessor,
    Qwen2_5_VLProcessingInfo,
)
from vllm.model_executor.models.qwen2_vl import (
    Qwen2VLDummyInputsBuilder,
    Qwen2VLForConditionalGeneration,
    Qwen2VLMultiModalProcessor,
    Qwen2VLProcessingInfo,
)
from vllm.model_executor.models.qwen3_vl import (
    Qwen3VLDummyInputsBuilder,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMultiModalProcessor,
    Qwen3VLProcessingInfo,
)
from vllm.model_executor.models.qwen3_vl_moe import (
    Qwen3VLMoeForConditionalGeneration,
    Qwen3VLMoeProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from ..family import Views
from ..layout import Layout, Tiles
from ..patches.position_channels import expect_position_channels
from ..patches.probing import Probes
from ..positions import grid_coordinates
from ..worker.encoded_image import EncodedImage
from ..worker.tower import Thinning
from .boxes import ONE_TILE, whole_boxes
from .counted import CountedInfo
from .mrope import STOCK_PRUNING, MRopeFamily, MRopeProcessor, MRopePrunedModel, layout_of_runs
from .qwen_tower import ATTENTION, WINDOWS, thinned_rows


class QwenFamily(MRopeFamily):
    """Qwen2-VL and Qwen2.5-VL."""

    tower_layer = 0.25

    def tower_depth(self, hf_config: Any) -> int:
        return int(hf_config.vision_config.depth)

    def tower_width(self, hf_config: Any) -> int:
        """Return `embed_dim` of Qwen2-VL, whose `hidden_size` is the language model's."""
        vision = hf_config.vision_config
        return int(getattr(vision, "embed_dim", None) or vision.hidden_size)

    def tiles(self, hf_config: Any, layout: Layout) -> Tiles:
        return Tiles(layout.num_frames, layout.num_patches // layout.num_frames)

    def example(self, hf_config: Any) -> tuple[str, Layout]:
        """Return an image within the processor's limits of pixels."""
        side = _token_size(hf_config)
        rows, columns = (max(1, round(size / side)) for size in (720, 1280))
        return "1280x720", _image_layout(rows, columns)

    def image_layout(
        self, info: Any, height: int, width: int, kwargs: Mapping[str, object]
    ) -> Layout:
        height, width = self.resized(info, height, width, kwargs)
        side = _token_size(info.get_hf_config())
        return _image_layout(height // side, width // side)

    def resized(
        self, info: Any, height: int, width: int, kwargs: Mapping[str, object]
    ) -> tuple[int, int]:
        """Return height and width in pixels that the processor scales an image to."""
        resized, _ = info._get_vision_info(
            image_width=width,
            image_height=height,
            num_frames=1,
            image_processor=info.get_image_processor(),
            mm_kwargs=kwargs,
        )
        return resized.height, resized.width

    def video_tokens(
        self, info: Any, num_frames: int, height: int, width: int, kwargs: Mapping[str, object]
    ) -> int | None:
        """Return what the frames have, unless the processor chooses among them or shrinks them."""
        processor = info.get_hf_processor().video_processor
        if processor.do_sample_frames or getattr(processor, "cap_pixels_per_frame", None):
            return None
        _, tokens = info._get_vision_info(
            image_width=width,
            image_height=height,
            num_frames=num_frames,
            image_processor=processor,
            mm_kwargs=kwargs,
            modality="video",
        )
        return int(tokens)

    def largest_item(self, info: Any, modality: str, max_model_len: int) -> int:
        if modality == "image":
            return int(info.get_max_image_tokens())
        return int(info.get_max_video_tokens(max_model_len, {"video": 1}))

    def views(self, hf_config: Any, layout: Layout, height: int, width: int) -> Views:
        """Return the boxes of the one view: the image is one tile of its own shape."""
        rows = layout.num_patches // layout.columns
        return {ONE_TILE: whole_boxes(rows, layout.columns, height, width)}

    def runs(self, hf_config: Any, modality: str, fields: Mapping[str, Any]) -> list[np.ndarray]:
        """Return the coordinates of one run, without anything between the frames of a video."""
        positions = 1.0
        if modality == "video":
            seconds = fields.get("second_per_grid_ts")
            positions = 1.0 if seconds is None else float(torch.as_tensor(seconds).flatten()[0])
            positions *= getattr(hf_config.vision_config, "tokens_per_second", 1.0)
        return [grid_coordinates(*_grid(hf_config, modality, fields), positions)]


class Qwen3Family(QwenFamily):
    """Qwen3-VL, whether its language model is dense or a mixture of experts."""

    def video_tokens(
        self, info: Any, num_frames: int, height: int, width: int, kwargs: Mapping[str, object]
    ) -> None:
        """Return None: what the file says of its speed decides which frames are taken."""

    def runs(self, hf_config: Any, modality: str, fields: Mapping[str, Any]) -> list[np.ndarray]:
        """Return the coordinates of every frame; an image has one."""
        frames, height, width = _grid(hf_config, modality, fields)
        return [grid_coordinates(1, height, width)] * frames

    def feature_width(self, hf_config: Any) -> int:
        levels = len(getattr(hf_config.vision_config, "deepstack_visual_indexes", None) or [])
        return int(hf_config.text_config.hidden_size * (1 + levels))


def _token_size(hf_config: Any) -> int:
    """Side in pixels of what becomes one visual token."""
    return int(hf_config.vision_config.patch_size * hf_config.vision_config.spatial_merge_size)


def _grid(hf_config: Any, modality: str, fields: Mapping[str, Any]) -> tuple[int, int, int]:
    """Frames, rows and columns of visual tokens of an item that was processed."""
    frames, height, width = fields[f"{modality}_grid_thw"].flatten().tolist()
    merge = hf_config.vision_config.spatial_merge_size
    return frames, height // merge, width // merge


@lru_cache(maxsize=64)
def _image_layout(rows: int, columns: int) -> Layout:
    """Layout of an image of that many visual tokens."""
    return replace(layout_of_runs([grid_coordinates(1, rows, columns)], 1), columns=columns)


class QwenInfo(CountedInfo):
    probes: ClassVar[Probes] = {
        "get_image_processor": ("kwargs",),
        "get_max_image_tokens": (),
        "get_max_video_tokens": ("seq_len", "mm_counts"),
        "_get_vision_info": frozenset(
            {
                "image_width",
                "image_height",
                "num_frames",
                "image_processor",
                "mm_kwargs",
                "modality",
            }
        ),
    }


class QwenModel(MRopePrunedModel):
    """A pruned model with a vision tower built as Qwen's, which drops patches where it is to."""

    probes = {"get_encoder_cudagraph_config": (), **ATTENTION}

    def encode(
        self, modality: str, fields: dict[str, Any], thinning: Thinning | None = None
    ) -> EncodedImage:
        if thinning is None:
            return super().encode(modality, fields)
        (pixels,) = (value for name, value in fields.items() if name.startswith("pixel"))
        (grid,) = fields[f"{modality}_grid_thw"].tolist()
        rows = thinned_rows(self.visual, pixels, grid, thinning)  # type: ignore[attr-defined]
        return EncodedImage.without_states(rows, thinning.layout, thinning.survivors)


class ScriptQwen2VLInfo(QwenInfo, Qwen2VLProcessingInfo):
    pass


class ScriptQwen2VLProcessor(MRopeProcessor, Qwen2VLMultiModalProcessor):
    family = QwenFamily()


@MULTIMODAL_REGISTRY.register_processor(
    ScriptQwen2VLProcessor,
    info=ScriptQwen2VLInfo,
    dummy_inputs=Qwen2VLDummyInputsBuilder,
)
class ScriptQwen2VLForConditionalGeneration(QwenModel, Qwen2VLForConditionalGeneration):
    family = ScriptQwen2VLProcessor.family


class ScriptQwen2_5_VLInfo(QwenInfo, Qwen2_5_VLProcessingInfo):
    pass


class ScriptQwen2_5_VLProcessor(MRopeProcessor, Qwen2_5_VLMultiModalProcessor):
    family = QwenFamily()


@MULTIMODAL_REGISTRY.register_processor(
    ScriptQwen2_5_VLProcessor,
    info=ScriptQwen2_5_VLInfo,
    dummy_inputs=Qwen2_5_VLDummyInputsBuilder,
)
class ScriptQwen2_5_VLForConditionalGeneration(QwenModel, Qwen2_5_VLForConditionalGeneration):
    family = ScriptQwen2_5_VLProcessor.family
    probes = {**STOCK_PRUNING, **WINDOWS}


class ScriptQwen3VLInfo(QwenInfo, Qwen3VLProcessingInfo):
    pass


class ScriptQwen3VLProcessor(MRopeProcessor, Qwen3VLMultiModalProcessor):
    family = Qwen3Family()


class PrunedQwen3(QwenModel):
    """A pruned Qwen3-VL or later, whose language model asks how far positions go."""

    probes = {
        "_mark_language_model": ("vllm_config", "targets"),
        **STOCK_PRUNING,
    }

    @contextmanager
    def _mark_language_model(self, vllm_config: Any, **kwargs: Any) -> Iterator[None]:
        """Have the language model, which is built meanwhile, make room for more positions.

        The constructors ask before whether rows are pruned by vLLM itself, and they are not.
        """
        expect_position_channels(vllm_config.model_config.multimodal_config)
        with super()._mark_language_model(vllm_config, **kwargs):  # type: ignore[misc]
            yield


@MULTIMODAL_REGISTRY.register_processor(
    ScriptQwen3VLProcessor,
    info=ScriptQwen3VLInfo,
    dummy_inputs=Qwen3VLDummyInputsBuilder,
)
class ScriptQwen3VLForConditionalGeneration(PrunedQwen3, Qwen3VLForConditionalGeneration):
    family = ScriptQwen3VLProcessor.family


class ScriptQwen3VLMoeInfo(QwenInfo, Qwen3VLMoeProcessingInfo):
    pass


@MULTIMODAL_REGISTRY.register_processor(
    ScriptQwen3VLProcessor,
    info=ScriptQwen3VLMoeInfo,
    dummy_inputs=Qwen3VLDummyInputsBuilder,
)
class ScriptQwen3VLMoeForConditionalGeneration(PrunedQwen3, Qwen3VLMoeForConditionalGeneration):
    family = ScriptQwen3VLProcessor.family
