"""Gemma 3: an image is one tile of equally many tokens, and behind it come its crops, if asked for.

Tile and crops are a run of placeholders each, with text between them. On a GPU the rows of a run
see each other in both directions. vLLM takes the runs from the placeholders of the pruned item, so
the rows that stay of a tile see each other and no others. On a CPU vLLM's attention is causal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, ClassVar

import torch
from vllm.model_executor.models.gemma3_mm import (
    Gemma3DummyInputsBuilder,
    Gemma3ForConditionalGeneration,
    Gemma3MultiModalProcessor,
    Gemma3ProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from ..family import Family, Views
from ..frontend.processor import PruningProcessor
from ..layout import Layout
from ..patches.probing import Probes
from ..vllm_types import ProcessingInfo
from ..worker.batch import split_flat
from ..worker.model import PrunedModel
from .boxes import ONE_TILE, TILES, strip_boxes, whole_boxes


class Gemma3Family(Family):
    def example(self, hf_config: Any) -> tuple[str, Layout]:
        """Return an image without crops, which are off unless somebody asks for them."""
        side = hf_config.vision_config.image_size
        return f"{side}x{side}", _layout(1, hf_config.mm_tokens_per_image)

    def image_layout(
        self, info: ProcessingInfo, height: int, width: int, kwargs: Mapping[str, object]
    ) -> Layout:
        of_gemma: Any = info
        num_crops = of_gemma.get_num_crops(
            image_width=width,
            image_height=height,
            processor=info.get_hf_processor(**kwargs),
            mm_kwargs=kwargs,
        )
        return _layout(1 + num_crops, info.get_hf_config().mm_tokens_per_image)

    def item_layout(self, hf_config: Any, modality: str, fields: Mapping[str, Any]) -> Layout:
        return _layout(int(fields["num_patches"]), hf_config.mm_tokens_per_image)

    def largest_item(self, info: Any, modality: str, max_model_len: int) -> int:
        """Return what vLLM's dummy has, with as many crops as the server's settings ask for."""
        size = info.get_image_size_with_most_features()
        return self.image_layout(info, size.height, size.width, {}).num_placeholders

    def views(self, hf_config: Any, layout: Layout, height: int, width: int) -> Views:
        """Return the boxes of the whole image, then of its crops."""
        side = round(hf_config.mm_tokens_per_image**0.5)
        whole = {ONE_TILE: whole_boxes(side, side, height, width)}
        if layout.num_frames == 1:
            return whole
        return {**whole, TILES: strip_boxes(side, layout.num_frames - 1, height, width)}


@lru_cache(maxsize=64)
def _layout(num_tiles: int, tile_tokens: int) -> Layout:
    """Layout of an image and its crops, which share what is kept as frames of a video do."""
    rows = torch.arange(num_tiles * tile_tokens)
    return Layout(rows, num_tiles, even=True, minimum=num_tiles)


class ScriptGemma3Info(Gemma3ProcessingInfo):
    probes: ClassVar[Probes] = {
        "get_num_crops": frozenset({"image_width", "image_height", "processor", "mm_kwargs"}),
        "get_image_size_with_most_features": (),
    }


class ScriptGemma3Processor(PruningProcessor, Gemma3MultiModalProcessor):
    family = Gemma3Family()


@MULTIMODAL_REGISTRY.register_processor(
    ScriptGemma3Processor,
    info=ScriptGemma3Info,
    dummy_inputs=Gemma3DummyInputsBuilder,
)
class ScriptGemma3ForConditionalGeneration(PrunedModel, Gemma3ForConditionalGeneration):
    family = ScriptGemma3Processor.family
    probes = {"get_encoder_cudagraph_config": ()}

    def split(self, fields: dict[str, Any], num_items: int) -> Iterator[dict[str, Any]]:
        return split_flat(fields, fields["num_patches"])
