"""Mistral Small 3.1 and 3.2 and Ministral 3, in transformers' format: an image has its own shape.

Stock vLLM lays an image out row by row: patches, and the text token [IMG_BREAK] behind each row but
the last, which [IMG_END] follows. A pruned image is one run of the patches that stay, in reading
order, and [IMG_END]. Its breaks go, as LLaVA-NeXT's newlines do: where they would have to stand
depends on the selection, and the prompt is made before it. At places that do not, such as after
equal shares, they would tell the model of rows that the image does not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from vllm.model_executor.models.mistral3 import (
    Mistral3DummyInputsBuilder,
    Mistral3ForConditionalGeneration,
    Mistral3HFEncoderInfo,
    Mistral3MultiModalProcessor,
    Mistral3ProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from ..family import Family, Views
from ..frontend.processor import PruningProcessor
from ..layout import Layout
from ..worker.model import PrunedModel
from .boxes import ONE_TILE, whole_boxes


class Mistral3Family(Family):
    def example(self, hf_config: Any) -> tuple[str, Layout]:
        """Return an image that is scaled down to the size of the tower's table of positions."""
        encoder = Mistral3HFEncoderInfo(hf_config, hf_config.vision_config.image_size)
        columns, rows = encoder.get_patch_grid_size(image_width=1280, image_height=720)
        return "1280x720", grid_layout(rows, columns)

    def image_layout(
        self, info: Any, height: int, width: int, kwargs: Mapping[str, object]
    ) -> Layout:
        encoder = info.get_vision_encoder_info(kwargs)
        columns, rows = encoder.get_patch_grid_size(image_width=width, image_height=height)
        return grid_layout(rows, columns)

    def item_layout(self, hf_config: Any, modality: str, fields: Mapping[str, Any]) -> Layout:
        """Return the layout by the pixels of the item, [3, height, width] or a batch of that."""
        side = hf_config.vision_config.patch_size * hf_config.spatial_merge_size
        pixels = fields["pixel_values"]
        height, width = (pixels[0] if isinstance(pixels, list) else pixels).shape[-2:]
        return grid_layout(height // side, width // side)

    def largest_item(self, info: Any, modality: str, max_model_len: int) -> int:
        size = info.get_image_size_with_most_features()
        return int(info.get_num_image_tokens(image_width=size.width, image_height=size.height))

    def views(self, hf_config: Any, layout: Layout, height: int, width: int) -> Views:
        """Return the boxes of the one view: the image is one tile of its own shape."""
        rows = layout.num_patches // layout.columns
        return {ONE_TILE: whole_boxes(rows, layout.columns, height, width)}


@lru_cache(maxsize=64)
def grid_layout(rows: int, columns: int) -> Layout:
    """Layout of an image of that many visual tokens."""
    return Layout(torch.arange(rows * columns), columns=columns)


class ScriptMistral3Info(Mistral3ProcessingInfo):
    probes = {
        "get_vision_encoder_info": ("mm_processor_kwargs",),
        "get_image_size_with_most_features": (),
        "get_num_image_tokens": frozenset({"image_width", "image_height"}),
        "vllm.model_executor.models.mistral3:Mistral3HFEncoderInfo.get_patch_grid_size": frozenset(
            {"image_width", "image_height"}
        ),
    }


class RowsProcessor(PruningProcessor):
    """A processor of images whose rows have breaks between them, in either of Mistral's formats."""

    def _shortened(self, stock: Any, count: int) -> Any:
        """Return one run of the image's token, and [IMG_END]."""
        return replace(stock, full=[stock.full[0]] * count + [stock.full[-1]])


class ScriptMistral3Processor(RowsProcessor, Mistral3MultiModalProcessor):
    family = Mistral3Family()


@MULTIMODAL_REGISTRY.register_processor(
    ScriptMistral3Processor,
    info=ScriptMistral3Info,
    dummy_inputs=Mistral3DummyInputsBuilder,
)
class ScriptMistral3ForConditionalGeneration(PrunedModel, Mistral3ForConditionalGeneration):
    family = ScriptMistral3Processor.family
