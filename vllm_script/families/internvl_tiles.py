"""What both formats of InternVL 2.5 and 3 have in common: all tiles have the same number of tokens.

An image is cut into tiles, and a thumbnail of it comes behind them, in one run of placeholders. A
frame of a video is one tile, and a run of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import torch

from ..frontend.processor import PruningProcessor
from ..layout import Layout
from ..worker.model import PrunedModel, split_flat
from .boxes import ONE_TILE, TILES, Views, tiled_boxes, whole_boxes


def check(engine_args: Any, hf_config: Any) -> None:
    """There is no way of running in which these models cannot be pruned."""


def tile_side(hf_config: Any) -> int:
    """Visual tokens on a side of a tile, of either format's configuration."""
    vision = hf_config.vision_config
    size, patch = (
        side if isinstance(side, int) else side[0]
        for side in (vision.image_size, vision.patch_size)
    )
    return int(size // patch * hf_config.downsample_ratio)


@lru_cache(maxsize=64)
def image_layout(num_tiles: int, tile_tokens: int) -> Layout:
    """Layout of an image of that many tiles, with its thumbnail."""
    return Layout(torch.arange(num_tiles * tile_tokens))


def patch_views(hf_config: Any, layout: Layout, height: int, width: int) -> Views:
    """The tiles, then the thumbnail."""
    side = tile_side(hf_config)
    num_tiles = layout.num_patches // side**2
    thumbnail = num_tiles > 1 and getattr(hf_config, "use_thumbnail", True)
    tiles = tiled_boxes(side, num_tiles - thumbnail, height, width)
    if not thumbnail:
        return {TILES: tiles}
    return {TILES: tiles, ONE_TILE: whole_boxes(side, side, height, width)}


@lru_cache(maxsize=64)
def video_layout(num_frames: int, tile_tokens: int) -> Layout:
    """Layout of a video of that many frames."""
    rows = torch.arange(num_frames * tile_tokens)
    return Layout(rows, num_frames, even=True, minimum=num_frames)


class TilesProcessor(PruningProcessor):
    """`PruningProcessor` of these models."""

    modalities = ("image", "video")

    def video_layout(self, fields: Mapping[str, Any]) -> Layout:
        tile_tokens = self.info.get_hf_processor().image_seq_length
        return video_layout(int(fields["video_num_patches"]), tile_tokens)


class TilesModel(PrunedModel):
    """`PrunedModel` of these models."""

    num_image_token: int

    def item_layout(self, modality: str, fields: Mapping[str, Any]) -> Layout:
        layout_of = video_layout if modality == "video" else image_layout
        return layout_of(int(fields[f"{modality}_num_patches"]), self.num_image_token)

    def split(self, fields: dict[str, Any], num_items: int) -> Iterator[dict[str, Any]]:
        (sizes,) = (value for name, value in fields.items() if name.endswith("_num_patches"))
        return split_flat(fields, sizes)
