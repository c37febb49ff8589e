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

from ..family import Family, Views
from ..frontend.processor import PruningProcessor
from ..layout import Layout, Tiles
from ..vllm_types import EngineArgs, ProcessingInfo
from ..worker.encoded_image import EncodedImage
from ..worker.model import PrunedModel
from ..worker.tower import Thinning, survivors_of, take_of_tiles, thinned_tower
from .boxes import ONE_TILE, cropped_boxes, whole_boxes

CLASS_TOKENS = {"clip_vision_model": "default", "siglip_vision_model": "full"}
"""Model type of a tower -> the feature selection that leaves its patches alone: CLIP's has a class
token before them, SigLIP's has none."""


BLOCKS = "vision_model.encoder.layers"
"""Where a CLIP or SigLIP tower has its blocks."""


class ClipTowerFamily(Family):
    """A family whose visual tokens are the patches of a CLIP or SigLIP tower, one by one."""

    tower_layer = 0.25

    def check(self, engine_args: EngineArgs, hf_config: Any) -> None:
        """Raise ValueError for a tower that returns more than its patches, or fewer."""
        tower = hf_config.vision_config.model_type
        strategy = hf_config.vision_feature_select_strategy
        if CLASS_TOKENS.get(tower) != strategy:
            known = " or ".join(f"{tower} with {alone!r}" for tower, alone in CLASS_TOKENS.items())
            raise ValueError(
                f"the script plugin does not know a {tower} tower with feature selection "
                f"{strategy!r}; it needs one whose tokens are the patches alone: {known}"
            )

    def tower_depth(self, hf_config: Any) -> int:
        """Return the blocks up to the layer that is read."""
        layer, depth = hf_config.vision_feature_layer, hf_config.vision_config.num_hidden_layers
        if not isinstance(layer, int):
            raise ValueError(
                "--script-tower-keep needs a vision tower that is read at one layer, and this "
                f"model reads {layer}; leave it out"
            )
        return int(layer if layer >= 0 else depth + 1 + layer)

    def state_width(self, hf_config: Any) -> int:
        """Return how many values a patch's state has of a CLIP tower that is read at one layer."""
        vision = hf_config.vision_config
        one_layer = isinstance(hf_config.vision_feature_layer, int)
        return vision.hidden_size if one_layer and vision.model_type == "clip_vision_model" else 0


def clip_tower(tower: Any, hf_config: Any, thinning: Thinning | None) -> Any:
    """A CLIP or SigLIP tower, thinned where it is to be.

    Args:
        tower: vLLM's, of the model with that configuration.
    """
    if thinning is None:
        return tower
    vision = hf_config.vision_config
    cells = torch.arange((vision.image_size // vision.patch_size) ** 2)[:, None]
    first = int(vision.model_type == "clip_vision_model")  # its class token
    take = take_of_tiles(thinning, cells, first)
    return thinned_tower(tower, BLOCKS, thinning.num_early_blocks, take)


class LlavaFamily(ClipTowerFamily):
    def example(self, hf_config: Any) -> tuple[str, Layout]:
        side = hf_config.vision_config.image_size
        return f"{side}x{side}", self.item_layout(hf_config, "image", {})

    def image_layout(
        self, info: ProcessingInfo, height: int, width: int, kwargs: Mapping[str, object]
    ) -> Layout:
        return self.item_layout(info.get_hf_config(), "image", {})

    def item_layout(self, hf_config: Any, modality: str, fields: Mapping[str, Any]) -> Layout:
        """Return the one layout there is: every image is scaled to one tile."""
        return _layout(_side(hf_config) ** 2)

    def tiles(self, hf_config: Any, layout: Layout) -> Tiles:
        return Tiles(1, _side(hf_config) ** 2)

    def views(self, hf_config: Any, layout: Layout, height: int, width: int) -> Views:
        """Return the boxes of the one tile; CLIP's processor crops."""
        side = _side(hf_config)
        if hf_config.vision_config.model_type == "clip_vision_model":
            return {ONE_TILE: cropped_boxes(side, height, width)}
        return {ONE_TILE: whole_boxes(side, side, height, width)}


def _side(hf_config: Any) -> int:
    """Patches on a side of the tile."""
    return int(hf_config.vision_config.image_size // hf_config.vision_config.patch_size)


@lru_cache(maxsize=1)
def _layout(num_patches: int) -> Layout:
    return Layout(torch.arange(num_patches))


class ScriptLlavaProcessor(PruningProcessor, LlavaMultiModalProcessor):
    family = LlavaFamily()


@MULTIMODAL_REGISTRY.register_processor(
    ScriptLlavaProcessor,
    info=LlavaProcessingInfo,
    dummy_inputs=LlavaDummyInputsBuilder,
)
class ScriptLlavaForConditionalGeneration(PrunedModel, LlavaForConditionalGeneration):
    family = ScriptLlavaProcessor.family
    probes = {
        "_parse_and_validate_image_input": ("kwargs",),
        "_image_pixels_to_features": ("vision_tower", "pixel_values"),
    }

    def encode(
        self, modality: str, fields: dict[str, Any], thinning: Thinning | None = None
    ) -> EncodedImage:
        pixels = self._parse_and_validate_image_input(**fields)["pixel_values"]
        tower = clip_tower(self.vision_tower, self.config, thinning)
        states = self._image_pixels_to_features(tower, pixels)  # [1, patches, H]
        features = self.multi_modal_projector(states)
        layout = self.family.item_layout(self.config, modality, fields)
        width = self.family.state_width(self.config)
        return EncodedImage(states[0, :, :width], features[0], layout, survivors_of(thinning))
