"""Llama 4: the tiles of an image, and the whole of it in one more, with marks between all of them.

Every tile is a run of placeholders of its own. How many stay of each must be known before the image
is encoded, so all keep the same part; the marks stay where they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, ClassVar

import torch
from transformers.image_utils import SizeDict
from transformers.models.llama4.image_processing_llama4 import (
    find_supported_resolutions,
    get_best_fit,
    get_max_res_without_distortion,
)
from vllm.model_executor.models.mllama4 import (
    Llama4ForConditionalGeneration,
    Mllama4DummyInputsBuilder,
    Mllama4MultiModalProcessor,
    Mllama4ProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from ..family import Family, Views
from ..frontend.processor import PruningProcessor
from ..layout import Layout
from ..patches.probing import Probes
from ..worker.batch import split_flat
from ..worker.model import PrunedModel
from .boxes import ONE_TILE, TILES, canvas_boxes, whole_boxes

MAX_TILES = 16
"""Tiles of the example image at most, as in the published checkpoints."""


class Llama4Family(Family):
    def example(self, hf_config: Any) -> tuple[str, Layout]:
        vision = hf_config.vision_config
        tiles = _tiles(vision.image_size, MAX_TILES, False, 720, 1280)
        return "1280x720", _layout(*tiles, _tile_side(vision))

    def image_layout(
        self, info: Any, height: int, width: int, kwargs: Mapping[str, object]
    ) -> Layout:
        vision = info.get_hf_config().vision_config
        to_max = info.get_hf_processor(**kwargs).image_processor.resize_to_max_canvas
        tiles = _tiles(vision.image_size, info.get_max_num_tiles(), to_max, height, width)
        return _layout(*tiles, _tile_side(vision))

    def item_layout(self, hf_config: Any, modality: str, fields: Mapping[str, Any]) -> Layout:
        """Return the layout by the pixels: [tiles, 3, side, side], the whole image the last."""
        tiles = len(fields["pixel_values"])
        _, across = torch.as_tensor(fields["aspect_ratios"]).flatten().tolist()
        down = max(1, (tiles - 1) // across)
        return _layout(down, across, _tile_side(hf_config.vision_config))

    def largest_item(self, info: Any, modality: str, max_model_len: int) -> int:
        size = info.get_image_size_with_most_features()
        return self.image_layout(info, size.height, size.width, {}).num_placeholders

    def views(self, hf_config: Any, layout: Layout, height: int, width: int) -> Views:
        """Return the boxes of the tiles, then of the one that shows the whole image.

        The tiles lie on a canvas of black, in whose left upper corner the image is: scaled down to
        it, but never up to more than one tile.
        """
        tile, side = hf_config.vision_config.image_size, _tile_side(hf_config.vision_config)
        across = layout.columns // side
        down = max(1, (layout.num_frames - 1) // across)
        room = (min(max(height, tile), down * tile), min(max(width, tile), across * tile))
        fit = get_max_res_without_distortion((height, width), room)
        tiles = canvas_boxes(side, tile // side, (down, across), (0, 0), fit, height, width)
        if layout.num_frames == 1:
            return {TILES: tiles}
        return {TILES: tiles, ONE_TILE: whole_boxes(side, side, height, width)}


def _tile_side(vision_config: Any) -> int:
    """Visual tokens on a side of a tile."""
    patches = vision_config.image_size // vision_config.patch_size
    return int(patches * vision_config.pixel_shuffle_ratio)


@lru_cache(maxsize=256)
def _tiles(
    tile: int, most: int, resize_to_max_canvas: bool, height: int, width: int
) -> tuple[int, int]:
    """Tiles in a column and in a row of an image, without the one that shows the whole of it.

    Args:
        tile: side of a tile in pixels.
        most: tiles of an image at most.
        resize_to_max_canvas: whether small images are scaled up.
        height, width: of the image, in pixels.
    """
    sizes = find_supported_resolutions(most, SizeDict(height=tile, width=tile))
    canvas = get_best_fit((height, width), torch.tensor(sizes), resize_to_max_canvas)
    down, across = (int(side) // tile for side in canvas)
    return down, across


@lru_cache(maxsize=64)
def _layout(down: int, across: int, tile_side: int) -> Layout:
    """Layout of an image of so many tiles, which share what is kept as frames of a video do."""
    num_tiles = 1 if down * across == 1 else down * across + 1
    rows = torch.arange(num_tiles * tile_side**2)
    return Layout(rows, num_tiles, even=True, minimum=num_tiles, columns=across * tile_side)


class ScriptLlama4Info(Mllama4ProcessingInfo):
    probes: ClassVar[Probes] = {
        "get_max_num_tiles": (),
        "get_image_size_with_most_features": (),
    }


class ScriptLlama4Processor(PruningProcessor, Mllama4MultiModalProcessor):
    family = Llama4Family()


@MULTIMODAL_REGISTRY.register_processor(
    ScriptLlama4Processor,
    info=ScriptLlama4Info,
    dummy_inputs=Mllama4DummyInputsBuilder,
)
class ScriptLlama4ForConditionalGeneration(PrunedModel, Llama4ForConditionalGeneration):
    family = ScriptLlama4Processor.family
    probes = {"get_encoder_cudagraph_config": ()}

    def split(self, fields: dict[str, Any], num_items: int) -> Iterator[dict[str, Any]]:
        return split_flat(fields, fields["patches_per_image"])
