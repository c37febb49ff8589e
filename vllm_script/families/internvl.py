"""InternVL 2.5 and 3 in transformers' format, which vLLM runs as Intern-S1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor
from vllm.model_executor.models.interns1 import (
    InternS1DummyInputsBuilder,
    InternS1ForConditionalGeneration,
    InternS1MultiModalProcessor,
    InternS1ProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from ..layout import Layout
from .internvl_tiles import TilesModel, TilesProcessor, check, image_layout, patch_views, tile_side

__all__ = ["check", "patch_views"]


def example(hf_config: Any) -> tuple[str, Layout]:
    """An image for the start-up line, with the processor's default limits of tiles."""
    height, width = hf_config.vision_config.image_size
    processor = GotOcr2ImageProcessor(size={"height": height, "width": width})
    num_tiles = _num_tiles(processor, 720, 1280, {})
    return "1280x720", image_layout(num_tiles, tile_side(hf_config) ** 2)


def _num_tiles(processor: Any, height: int, width: int, kwargs: Mapping[str, object]) -> int:
    """Tiles of an image, with its thumbnail: InternVL's processor cuts images by default."""
    return processor.get_number_of_image_patches(height, width, {"crop_to_patches": True, **kwargs})


class ScriptInternVLProcessor(TilesProcessor, InternS1MultiModalProcessor):
    def image_layout(self, height: int, width: int, kwargs: Mapping[str, object]) -> Layout:
        processor: Any = self.info.get_hf_processor(**kwargs)
        settings = self.info.ctx.get_merged_mm_kwargs(kwargs)
        settings = {**settings, **settings.get("images_kwargs", {})}
        num_tiles = _num_tiles(processor.image_processor, height, width, settings)
        return image_layout(num_tiles, processor.image_seq_length)


@MULTIMODAL_REGISTRY.register_processor(
    ScriptInternVLProcessor,
    info=InternS1ProcessingInfo,
    dummy_inputs=InternS1DummyInputsBuilder,
)
class ScriptInternVLForConditionalGeneration(TilesModel, InternS1ForConditionalGeneration):
    pass
