"""What Qwen2-VL, Qwen2.5-VL and Qwen3-VL have in common: an image keeps its own shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from ..config import ScriptConfig
from ..layout import Layout
from ..positions import grid_coordinates
from .boxes import ONE_TILE, Views, whole_boxes
from .mrope import MRopeProcessor, check_mrope, layout_of_runs


def check(engine_args: Any, hf_config: Any) -> None:
    """Raise ValueError for ways of running that these models cannot be pruned in."""
    check_mrope(engine_args)


def layout_of(hf_config: Any, height: int, width: int) -> Layout:
    """Layout of an image of that size in pixels, within the processor's limits of pixels."""
    return grid_layout(*_grid(hf_config, height, width))


def example(hf_config: Any) -> tuple[str, Layout]:
    """An image for the start-up line."""
    return "1280x720", layout_of(hf_config, 720, 1280)


@lru_cache(maxsize=64)
def grid_layout(rows: int, columns: int) -> Layout:
    """Layout of an image of that many visual tokens."""
    return replace(layout_of_runs([grid_coordinates(1, rows, columns)], 1), columns=columns)


def patch_views(hf_config: Any, layout: Layout, height: int, width: int) -> Views:
    """The image is one tile of its own shape."""
    rows = layout.num_patches // layout.columns
    return {ONE_TILE: whole_boxes(rows, layout.columns, height, width)}


def token_size(hf_config: Any) -> int:
    """Side in pixels of what becomes one visual token."""
    return hf_config.vision_config.patch_size * hf_config.vision_config.spatial_merge_size


def grid_of(hf_config: Any, modality: str, fields: Mapping[str, Any]) -> tuple[int, int, int]:
    """Frames, rows and columns of visual tokens of an item that was processed."""
    frames, height, width = fields[f"{modality}_grid_thw"].flatten().tolist()
    merge = hf_config.vision_config.spatial_merge_size
    return frames, height // merge, width // merge


def one_run(hf_config: Any, modality: str, fields: Mapping[str, Any]) -> list[np.ndarray]:
    """Coordinates, [3, tokens] of one run, of an item without anything between its frames.

    Time passes in a video by its speed.
    """
    positions = 1.0
    if modality == "video":
        seconds = fields.get("second_per_grid_ts")
        positions = 1.0 if seconds is None else float(torch.as_tensor(seconds).flatten()[0])
        positions *= getattr(hf_config.vision_config, "tokens_per_second", 1.0)
    return [grid_coordinates(*grid_of(hf_config, modality, fields), positions)]


def _grid(hf_config: Any, height: int, width: int) -> tuple[int, int]:
    side = token_size(hf_config)
    return max(1, round(height / side)), max(1, round(width / side))


class QwenInfo:
    """Mixin before a stock info: vLLM asks it how many tokens an item has at most."""

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Any:
        """Stock's answer; None, which makes vLLM count in dummies, where no item is left whole."""
        config = ScriptConfig.of(self.get_hf_config())  # type: ignore[attr-defined]
        if config.max_keep_ratio < 1:
            return None
        return super().get_mm_max_tokens_per_item(seq_len, mm_counts)  # type: ignore[misc]


class QwenProcessor(MRopeProcessor):
    """`PruningProcessor` of these models."""

    def image_layout(self, height: int, width: int, kwargs: Mapping[str, object]) -> Layout:
        info: Any = self.info
        resized, _ = info._get_vision_info(
            image_width=width,
            image_height=height,
            num_frames=1,
            image_processor=info.get_image_processor(),
            mm_kwargs=kwargs,
        )
        side = token_size(info.get_hf_config())
        return grid_layout(resized.height // side, resized.width // side)
