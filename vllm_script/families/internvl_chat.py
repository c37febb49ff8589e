"""InternVL 2.5 and 3 in their own format, whose configuration class comes with the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm.model_executor.models.internvl import (
    InternVLChatModel,
    InternVLDummyInputsBuilder,
    InternVLMultiModalProcessor,
    InternVLProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.transformers_utils.processors.internvl import (
    calculate_internvl_targets,
    get_internvl_target_ratios,
    resolve_internvl_min_max_num,
)

from ..layout import Layout
from .internvl_tiles import TilesModel, TilesProcessor, check, image_layout, patch_views, tile_side

__all__ = ["check", "patch_views"]


def example(hf_config: Any) -> tuple[str, Layout]:
    """An image for the start-up line."""
    fewest, most = resolve_internvl_min_max_num(
        min_dynamic_patch=hf_config.min_dynamic_patch,
        max_dynamic_patch=hf_config.max_dynamic_patch,
        dynamic_image_size=hf_config.dynamic_image_size,
        use_thumbnail=False,  # counted below
    )
    num_tiles, _, _ = calculate_internvl_targets(
        orig_width=1280,
        orig_height=720,
        target_ratios=get_internvl_target_ratios(fewest, most),
        image_size=hf_config.vision_config.image_size,
        use_thumbnail=hf_config.use_thumbnail,
    )
    return "1280x720", image_layout(num_tiles, tile_side(hf_config) ** 2)


class ScriptInternVLChatProcessor(TilesProcessor, InternVLMultiModalProcessor):
    def token(self, modality: str) -> str:
        return f"<{modality}>"

    def image_layout(self, height: int, width: int, kwargs: Mapping[str, object]) -> Layout:
        processor: Any = self.info.get_hf_processor(**kwargs)
        tile_tokens = processor.image_seq_length
        total = processor.get_num_image_tokens(image_width=width, image_height=height)
        return image_layout(total // tile_tokens, tile_tokens)


@MULTIMODAL_REGISTRY.register_processor(
    ScriptInternVLChatProcessor,
    info=InternVLProcessingInfo,
    dummy_inputs=InternVLDummyInputsBuilder,
)
class ScriptInternVLChatModel(TilesModel, InternVLChatModel):
    pass
