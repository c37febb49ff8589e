"""LLaVA-NeXT (1.6): anyres tiles, unpadding, a newline after every row of patches."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from vllm.model_executor.models.llava import LlavaDummyInputsBuilder
from vllm.model_executor.models.llava_next import (
    LlavaNextForConditionalGeneration,
    LlavaNextMultiModalProcessor,
    LlavaNextProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from ..family import Views
from ..frontend.processor import PruningProcessor
from ..layout import Layout, Tiles
from ..vllm_types import ProcessingInfo
from ..worker.encoded_image import EncodedImage
from ..worker.model import PrunedModel
from ..worker.tower import Thinning, survivors_of
from .anyres import ANYRES_PROBES, Anyres, merged_patch_numbers
from .boxes import ONE_TILE, TILES, anyres_boxes, whole_boxes
from .llava import ClipTowerFamily, clip_tower


class LlavaNextFamily(ClipTowerFamily):
    def example(self, hf_config: Any) -> tuple[str, Layout]:
        """Return an image with the most tokens."""
        height, width = max(hf_config.image_grid_pinpoints, key=lambda size: size[0] * size[1])
        return f"{width}x{height}", _layout(Anyres.of(hf_config), height, width)

    def image_layout(
        self, info: ProcessingInfo, height: int, width: int, kwargs: Mapping[str, object]
    ) -> Layout:
        """Return the base tile's rows, then the grid's with newlines."""
        return _layout(Anyres.of(info.get_hf_config()), height, width)

    def item_layout(self, hf_config: Any, modality: str, fields: Mapping[str, Any]) -> Layout:
        height, width = fields["image_sizes"].flatten().tolist()
        return _layout(Anyres.of(hf_config), height, width)

    def tiles(self, hf_config: Any, layout: Layout) -> Tiles:
        """Return as many tiles as an image may have: unpadding may leave out some."""
        tile, patch, pinpoints = Anyres.of(hf_config)
        most = 1 + max(height * width for height, width in pinpoints) // tile**2
        return Tiles(most, (tile // patch) ** 2)

    def views(self, hf_config: Any, layout: Layout, height: int, width: int) -> Views:
        """Return the boxes of the base tile, then of the grid of tiles."""
        anyres = Anyres.of(hf_config)
        base = whole_boxes(anyres.tile_side, anyres.tile_side, height, width)
        return {ONE_TILE: base, TILES: anyres_boxes(*anyres, height, width)}


@lru_cache(maxsize=512)
def _layout(anyres: Anyres, height: int, width: int) -> Layout:
    merge = LlavaNextForConditionalGeneration._merge_image_patch_embeddings
    return Layout(merged_patch_numbers(merge, anyres, height, width).long())


class ScriptLlavaNextProcessor(PruningProcessor, LlavaNextMultiModalProcessor):
    family = LlavaNextFamily()


@MULTIMODAL_REGISTRY.register_processor(
    ScriptLlavaNextProcessor,
    info=LlavaNextProcessingInfo,
    dummy_inputs=LlavaDummyInputsBuilder,
)
class ScriptLlavaNextForConditionalGeneration(PrunedModel, LlavaNextForConditionalGeneration):
    family = ScriptLlavaNextProcessor.family
    probes = {
        "_parse_and_validate_image_input": ("kwargs",),
        "_image_pixels_to_features": ("vision_tower", "pixel_values"),
        "_merge_image_patch_embeddings": ("image_size", "patch_embeddings", "strategy"),
        **ANYRES_PROBES,
    }

    def encode(
        self, modality: str, fields: dict[str, Any], thinning: Thinning | None = None
    ) -> EncodedImage:
        inputs = self._parse_and_validate_image_input(**fields)
        (tiles,) = inputs["pixel_values"]  # [tiles, 3, height, width]
        tower = clip_tower(self.vision_tower, self.config, thinning)
        states = self._image_pixels_to_features(tower, tiles)  # [tiles, patches, H]
        features = self.multi_modal_projector(states)
        layout = self.family.item_layout(self.config, modality, fields)
        states = states.flatten(0, 1)[:, : self.family.state_width(self.config)]
        return EncodedImage(states, features.flatten(0, 1), layout, survivors_of(thinning))
