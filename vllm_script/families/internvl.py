"""InternVL 2.5, 3 and 3.5, in transformers' format, which is Intern-S1's too, and in their own.

An image is cut into tiles, and a thumbnail of it comes behind them, in one run of placeholders. A
frame of a video is one tile, and a run of its own. All tiles have the same number of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, ClassVar

import torch
from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor
from vllm.model_executor.models.interns1 import (
    InternS1DummyInputsBuilder,
    InternS1ForConditionalGeneration,
    InternS1MultiModalProcessor,
    InternS1ProcessingInfo,
)
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

from ..family import Family, Views
from ..frontend.processor import PruningProcessor
from ..layout import Layout, Tiles
from ..patches.probing import members
from ..vllm_types import ProcessingInfo
from ..worker.batch import split_flat
from ..worker.encoded_image import EncodedImage
from ..worker.model import PrunedModel
from ..worker.tower import Thinning, take_of_tiles, thinned_tower
from .boxes import ONE_TILE, TILES, square_boxes, tiled_boxes, whole_boxes


class TilesFamily(Family):
    """A family whose images are tiles, in either of InternVL's two formats."""

    modalities = ("image", "video")
    tower_layer = 0.25

    def tower_depth(self, hf_config: Any) -> int:
        """Return the blocks of InternViT, those behind the layer that is read left out."""
        if getattr(hf_config, "ps_version", "v2") == "v1":
            raise ValueError(
                "--script-tower-keep is not for an InternVL with ps_version v1, whose visual "
                "tokens come column by column; leave it out"
            )
        depth, read = (
            hf_config.vision_config.num_hidden_layers,
            getattr(hf_config, "select_layer", -1),
        )
        return int(depth + 1 + read if read < 0 else read + 1)

    def tiles(self, hf_config: Any, layout: Layout) -> Tiles:
        size = _tile_side(hf_config) ** 2
        return Tiles(layout.num_patches // size, size)

    def video_layout(self, hf_config: Any, num_frames: int) -> Layout:
        """Return the frames, each of them one tile and one run."""
        return _video_layout(num_frames, _tile_side(hf_config) ** 2)

    def item_layout(self, hf_config: Any, modality: str, fields: Mapping[str, Any]) -> Layout:
        num_tiles = int(fields[f"{modality}_num_patches"])
        if modality == "video":
            return self.video_layout(hf_config, num_tiles)
        return _image_layout(num_tiles, _tile_side(hf_config) ** 2)

    def views(self, hf_config: Any, layout: Layout, height: int, width: int) -> Views:
        """Return the boxes of the tiles, then of the thumbnail."""
        side = _tile_side(hf_config)
        num_tiles = layout.num_patches // side**2
        thumbnail = num_tiles > 1 and getattr(hf_config, "use_thumbnail", True)
        tiles = tiled_boxes(side, num_tiles - thumbnail, height, width)
        if not thumbnail:
            return {TILES: tiles}
        return {TILES: tiles, ONE_TILE: whole_boxes(side, side, height, width)}

    def frame_boxes(self, hf_config: Any, layout: Layout, height: int, width: int) -> torch.Tensor:
        return square_boxes(layout, height, width)


class InternVLFamily(TilesFamily):
    """InternVL in the format of transformers."""

    def example(self, hf_config: Any) -> tuple[str, Layout]:
        """Return an image, with the processor's default limits of tiles."""
        height, width = hf_config.vision_config.image_size
        processor = GotOcr2ImageProcessor(size={"height": height, "width": width})
        num_tiles = _num_tiles(processor, 720, 1280, {})
        return "1280x720", _image_layout(num_tiles, _tile_side(hf_config) ** 2)

    def image_layout(
        self, info: ProcessingInfo, height: int, width: int, kwargs: Mapping[str, object]
    ) -> Layout:
        processor = info.get_hf_processor(**kwargs)
        settings = info.ctx.get_merged_mm_kwargs(kwargs)
        settings = {**settings, **settings.get("images_kwargs", {})}
        num_tiles = _num_tiles(processor.image_processor, height, width, settings)
        return _image_layout(num_tiles, processor.image_seq_length)


class InternVLChatFamily(TilesFamily):
    """InternVL in its own format, whose configuration class comes with the checkpoint."""

    def example(self, hf_config: Any) -> tuple[str, Layout]:
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
        return "1280x720", _image_layout(num_tiles, _tile_side(hf_config) ** 2)

    def image_layout(
        self, info: ProcessingInfo, height: int, width: int, kwargs: Mapping[str, object]
    ) -> Layout:
        of_internvl: Any = info
        processor = info.get_hf_processor(**kwargs)
        total = of_internvl.get_num_image_tokens(
            image_width=width, image_height=height, processor=processor
        )
        tile_tokens = processor.image_seq_length
        return _image_layout(total // tile_tokens, tile_tokens)

    def token(self, info: ProcessingInfo, modality: str) -> str:
        return f"<{modality}>"


def _tile_side(hf_config: Any) -> int:
    """Visual tokens on a side of a tile, of either format's configuration."""
    vision = hf_config.vision_config
    size, patch = (
        side if isinstance(side, int) else side[0]
        for side in (vision.image_size, vision.patch_size)
    )
    return int(size // patch * hf_config.downsample_ratio)


def _num_tiles(processor: Any, height: int, width: int, kwargs: Mapping[str, object]) -> int:
    """Tiles of an image, with its thumbnail: InternVL's processor cuts images by default."""
    settings = {"crop_to_patches": True, **kwargs}
    return int(processor.get_number_of_image_patches(height, width, settings))


@lru_cache(maxsize=64)
def _image_layout(num_tiles: int, tile_tokens: int) -> Layout:
    """Layout of an image of that many tiles, its thumbnail among them."""
    return Layout(torch.arange(num_tiles * tile_tokens))


@lru_cache(maxsize=64)
def _video_layout(num_frames: int, tile_tokens: int) -> Layout:
    """Layout of a video: each frame is one tile and one run."""
    rows = torch.arange(num_frames * tile_tokens)
    return Layout(rows, num_frames, even=True, minimum=num_frames)


class TilesModel(PrunedModel):
    """A pruned model of either format: the tiles of a batch are in one tensor.

    A subclass names what its format has: the tower, its blocks in it, and the projector.
    """

    probes = {"pixel_shuffle": ("x", "scale_factor")}
    tower_name: ClassVar[str]
    blocks: ClassVar[str]
    projector_name: ClassVar[str]

    def encode(
        self, modality: str, fields: dict[str, Any], thinning: Thinning | None = None
    ) -> EncodedImage:
        if thinning is None:
            return super().encode(modality, fields)
        (pixels,) = (value for name, value in fields.items() if name.startswith("pixel"))
        ratio, side = self._hf_config.downsample_ratio, _tile_side(self._hf_config)
        merge = round(1 / ratio)
        take = take_of_tiles(thinning, _cells(side, merge), first=1)
        tower = thinned_tower(
            getattr(self, self.tower_name), self.blocks, thinning.num_early_blocks, take
        )
        states = tower(pixel_values=pixels)[:, 1:]  # [tiles, S * patches of a token, H]
        tokens = states.reshape(-1, merge, merge, states.shape[-1])
        rows = self.pixel_shuffle(tokens, scale_factor=ratio).flatten(1)  # type: ignore[attr-defined]
        projector = getattr(self, self.projector_name)
        rows = projector(rows)
        return EncodedImage.without_states(rows, thinning.layout, thinning.survivors)

    def split(self, fields: dict[str, Any], num_items: int) -> Iterator[dict[str, Any]]:
        (sizes,) = (value for name, value in fields.items() if name.endswith("_num_patches"))
        return split_flat(fields, sizes)


def _cells(side: int, merge: int) -> torch.Tensor:
    """Places in a tile of the patches of each of side x side visual tokens, [tokens, patches]."""
    patches = torch.arange((side * merge) ** 2).view(side, merge, side, merge)
    return patches.transpose(1, 2).reshape(side**2, merge**2)


class ScriptInternVLProcessor(PruningProcessor, InternS1MultiModalProcessor):
    family = InternVLFamily()


@MULTIMODAL_REGISTRY.register_processor(
    ScriptInternVLProcessor,
    info=InternS1ProcessingInfo,
    dummy_inputs=InternS1DummyInputsBuilder,
)
class ScriptInternVLForConditionalGeneration(TilesModel, InternS1ForConditionalGeneration):
    family = ScriptInternVLProcessor.family
    tower_name, blocks, projector_name = "vision_tower", "encoder.layer", "multi_modal_projector"


@MULTIMODAL_REGISTRY.register_processor(
    ScriptInternVLProcessor,
    info=InternS1ProcessingInfo,
    dummy_inputs=InternS1DummyInputsBuilder,
)
class ScriptInternS1ForConditionalGeneration(ScriptInternVLForConditionalGeneration):
    """Intern-S1, by another name the same class of vLLM's; its processor comes with checkpoints."""


class ScriptInternVLChatProcessor(PruningProcessor, InternVLMultiModalProcessor):
    family = InternVLChatFamily()


@MULTIMODAL_REGISTRY.register_processor(
    ScriptInternVLChatProcessor,
    info=InternVLProcessingInfo,
    dummy_inputs=InternVLDummyInputsBuilder,
)
class ScriptInternVLChatModel(TilesModel, InternVLChatModel):
    family = ScriptInternVLChatProcessor.family
    tower_name, blocks, projector_name = "vision_model", "encoder.layers", "mlp1"
    probes = {
        "get_encoder_cudagraph_config": (),
        "vllm.model_executor.models.internvl:InternVLProcessingInfo.get_num_image_tokens": (
            frozenset({"image_width", "image_height", "processor"})
        ),
        **members(
            "vllm.transformers_utils.processors.internvl",
            {
                "get_internvl_target_ratios": ("min_num", "max_num"),
                "resolve_internvl_min_max_num": frozenset(
                    ("min_dynamic_patch", "max_dynamic_patch")
                    + ("dynamic_image_size", "use_thumbnail")
                ),
                "calculate_internvl_targets": frozenset(
                    ("orig_width", "orig_height", "target_ratios", "image_size", "use_thumbnail")
                ),
            },
        ),
    }
