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

from ..frontend.processor import PruningProcessor
from ..layout import Layout
from ..patches.vllm import merge_llava_next_tiles
from ..worker.encoded_image import EncodedImage
from ..worker.model import PrunedModel
from .boxes import ONE_TILE, TILES, Views, anyres_boxes, whole_boxes
from .llava import check as check
from .llava import state_width


def layout_of(hf_config: Any, height: int, width: int) -> Layout:
    """Layout of an image of that size: the base tile's rows, then the grid's with newlines."""
    return _layout_of(*_anyres(hf_config), height, width)


def patch_views(hf_config: Any, layout: Layout, height: int, width: int) -> Views:
    """The base tile, then the grid of tiles."""
    tile, patch, pinpoints = _anyres(hf_config)
    base = whole_boxes(tile // patch, tile // patch, height, width)
    return {ONE_TILE: base, TILES: anyres_boxes(tile, patch, pinpoints, height, width)}


def example(hf_config: Any) -> tuple[str, Layout]:
    """An image with the most tokens, for the start-up line."""
    height, width = max(hf_config.image_grid_pinpoints, key=lambda size: size[0] * size[1])
    return f"{width}x{height}", layout_of(hf_config, height, width)


def _anyres(hf_config: Any) -> tuple[int, int, tuple[tuple[int, ...], ...]]:
    """Sides of a tile and of a patch, and the pinpoints."""
    vision = hf_config.vision_config
    pinpoints = tuple(tuple(size) for size in hf_config.image_grid_pinpoints)
    return vision.image_size, vision.patch_size, pinpoints


@lru_cache(maxsize=512)
def _layout_of(
    tile_size: int, patch_size: int, pinpoints: tuple[tuple[int, ...], ...], height: int, width: int
) -> Layout:
    return Layout(merge_llava_next_tiles(tile_size, patch_size, pinpoints, height, width))


class ScriptLlavaNextProcessor(PruningProcessor, LlavaNextMultiModalProcessor):
    def image_layout(self, height: int, width: int, kwargs: Mapping[str, object]) -> Layout:
        return layout_of(self.info.get_hf_config(), height, width)


@MULTIMODAL_REGISTRY.register_processor(
    ScriptLlavaNextProcessor,
    info=LlavaNextProcessingInfo,
    dummy_inputs=LlavaDummyInputsBuilder,
)
class ScriptLlavaNextForConditionalGeneration(PrunedModel, LlavaNextForConditionalGeneration):
    state_width = staticmethod(state_width)

    def encode(self, modality: str, fields: dict[str, Any]) -> EncodedImage:
        inputs = self._parse_and_validate_image_input(**fields)
        (tiles,) = inputs["pixel_values"]  # [tiles, 3, height, width]
        states = self._image_pixels_to_features(self.vision_tower, tiles)  # [tiles, patches, H]
        features = self.multi_modal_projector(states)
        ((height, width),) = inputs["image_sizes"].tolist()
        layout = layout_of(self.config, height, width)
        return EncodedImage(states.flatten(0, 1), features.flatten(0, 1), layout)
