"""LLaVA-1.5: one tile, no newlines, so every placeholder is a patch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from vllm.model_executor.models.llava import (
    LlavaDummyInputsBuilder,
    LlavaForConditionalGeneration,
    LlavaMultiModalProcessor,
    LlavaProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from ..frontend.processor import PruningProcessor
from ..layout import Layout
from ..worker.encoded_image import EncodedImage
from ..worker.model import PrunedModel
from .boxes import ONE_TILE, Views, cropped_boxes, whole_boxes


def layout_of(hf_config: Any, height: int, width: int) -> Layout:
    """Every image is scaled to one tile, so its size does not matter."""
    vision = hf_config.vision_config
    return _layout_of((vision.image_size // vision.patch_size) ** 2)


def patch_views(hf_config: Any, layout: Layout, height: int, width: int) -> Views:
    """The one tile; CLIP's processor crops."""
    vision = hf_config.vision_config
    side = vision.image_size // vision.patch_size
    if vision.model_type == "clip_vision_model":
        return {ONE_TILE: cropped_boxes(side, height, width)}
    return {ONE_TILE: whole_boxes(side, side, height, width)}


def example(hf_config: Any) -> tuple[str, Layout]:
    """An image for the start-up line."""
    side = hf_config.vision_config.image_size
    return f"{side}x{side}", layout_of(hf_config, side, side)


@lru_cache(maxsize=1)
def _layout_of(num_patches: int) -> Layout:
    return Layout(torch.arange(num_patches))


def check(engine_args: Any, hf_config: Any) -> None:
    """Raise ValueError for a tower that returns more than patches."""
    tower, strategy = hf_config.vision_config.model_type, hf_config.vision_feature_select_strategy
    if tower == "pixtral" or strategy != "default":
        raise ValueError(
            f"the script plugin does not know a {tower} tower with feature selection "
            f"{strategy!r}; it needs one whose tokens are the patches alone (default)"
        )


def state_width(hf_config: Any) -> int:
    """Values of a patch in what the tower returns: of one layer or of several."""
    layers = hf_config.vision_feature_layer
    return hf_config.vision_config.hidden_size * (1 if isinstance(layers, int) else len(layers))


class ScriptLlavaProcessor(PruningProcessor, LlavaMultiModalProcessor):
    def image_layout(self, height: int, width: int, kwargs: Mapping[str, object]) -> Layout:
        return layout_of(self.info.get_hf_config(), height, width)


@MULTIMODAL_REGISTRY.register_processor(
    ScriptLlavaProcessor,
    info=LlavaProcessingInfo,
    dummy_inputs=LlavaDummyInputsBuilder,
)
class ScriptLlavaForConditionalGeneration(PrunedModel, LlavaForConditionalGeneration):
    state_width = staticmethod(state_width)

    def encode(self, modality: str, fields: dict[str, Any]) -> EncodedImage:
        inputs = self._parse_and_validate_image_input(**fields)
        states = self._process_image_pixels(inputs)  # [1, patches, H]
        features = self.multi_modal_projector(states)
        return EncodedImage(states[0], features[0], layout_of(self.config, 0, 0))
