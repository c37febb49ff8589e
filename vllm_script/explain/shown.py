"""An item of explain's answer: numbers, patches with their places and relevance, and drawings."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import torch
from PIL import Image

from ..config import ScriptConfig
from ..families import family_of
from ..vllm_types import ModelConfig
from .drawing import draw_selection
from .explained import ExplainedItem
from .film import FRAME_MILLISECONDS, draw_film, draw_strip, frames_of

LONGEST_SIDE = 720
"""Pixels of a frame that is sent to be shown."""


def shown_item(
    model_config: ModelConfig, item: ExplainedItem, selection: dict[str, Any]
) -> dict[str, Any]:
    """What explain answers about one image or video.

    Args:
        selection: `kept`, `relevance` and `candidates` as the worker's shelf has them; {} of an
            item that is left whole.
    """
    kept, left = selection.get("kept"), selection.get("candidates")
    show = _shown_image if item.modality == "image" else _shown_video
    plan, total = item.plan, item.num_visual_tokens
    candidates = None if item.layout is None else item.layout.candidates
    tower_keep = 1.0
    if left is not None:
        assert plan is not None and plan.tower is not None, "a thinned tower leaves candidates"
        candidates, tower_keep = torch.tensor(left), plan.tower.keep
    return {
        "visual_tokens": total,
        "kept": total if kept is None else len(kept),
        "left_whole": plan is None,
        "tower_keep": tower_keep,
        "tower_left": None if left is None else len(left),
        "keep_ratio": plan and plan.keep_ratio,
        "visual_token_budget": plan and plan.visual_token_budget,
        "mode": plan and plan.mode,
        "relevance": plan and plan.relevance,
        "query": {
            "questions": list(item.questions),
            "source": item.source,
            "all_read": item.all_read(ScriptConfig.of(model_config).clip_model),
        },
        "kept_patches": kept,
        "tower_patches": left,
        **show(model_config.hf_config, item, candidates, kept, selection.get("relevance")),
    }


def _shown_image(
    hf_config: Any,
    item: ExplainedItem,
    candidates: torch.Tensor | None,
    kept: list[int] | None,
    relevance: list[float] | None,
) -> dict[str, Any]:
    """Its size, the boxes of its patches in every view, their relevance, and a PNG of these.

    Args:
        candidates: patches that the selection chose from.
    """
    picture, layout = item.content, item.layout
    assert layout is not None and candidates is not None, "refused where it is not known"
    views = family_of(hf_config.architectures[0]).views(
        hf_config, layout, picture.height, picture.width
    )
    assert views is not None, "a model that is sent images has views of them"
    by_patch = _by_patch(candidates, sum(map(len, views.values())), relevance)
    patches = layout.candidates if kept is None else torch.tensor(kept)
    return {
        "width": picture.width,
        "height": picture.height,
        "patch_relevance": _numbers(by_patch),
        "views": [{"name": name, "boxes": boxes.tolist()} for name, boxes in views.items()],
        "png": _encoded([draw_selection(picture, views, patches, by_patch)], "PNG"),
    }


def _shown_video(
    hf_config: Any,
    item: ExplainedItem,
    candidates: torch.Tensor | None,
    kept: list[int] | None,
    relevance: list[float] | None,
) -> dict[str, Any]:
    """Its size and frames, the boxes of a frame's patches, their relevance, a strip, and a film.

    Of a video that is left whole there are no patches to show: it is not taken apart.

    Args:
        candidates: patches that the selection chose from; None of a whole video.
    """
    num_frames = None if item.layout is None else item.layout.num_frames
    frames = frames_of(item.content, num_frames)
    width, height = frames[0].size
    boxes, by_patch = torch.empty(0, 4), None
    if item.layout is not None and candidates is not None and kept is not None:
        family = family_of(hf_config.architectures[0])
        found = family.frame_boxes(hf_config, item.layout, height, width)
        assert found is not None, "a model whose videos are pruned knows where their patches are"
        boxes = found
        by_patch = _by_patch(candidates, len(boxes) * len(frames), relevance)
    film = draw_film(frames, boxes, kept)
    strip = draw_strip(frames, boxes, film, by_patch)
    return {
        "width": width,
        "height": height,
        "num_frames": len(frames),
        "frames": [_encoded([_bounded(frame)], "JPEG") for frame in frames],
        "patch_relevance": _numbers(by_patch),
        "views": [{"name": "a frame", "boxes": boxes.tolist()}] if len(boxes) else [],
        "png": _encoded([strip], "PNG"),
        "webp": _encoded(film, "WEBP", duration=FRAME_MILLISECONDS, loop=0),
    }


def _bounded(frame: Image.Image) -> Image.Image:
    """A copy of a frame, scaled down to `LONGEST_SIDE` where it is larger."""
    small = frame.copy()
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return small


def _by_patch(
    candidates: torch.Tensor, num_patches: int, relevance: list[float] | None
) -> torch.Tensor | None:
    """Relevance [num_patches], NaN of patches that are no candidates.

    Args:
        relevance: of the candidates, as the worker has it; None where it read none.
    """
    if relevance is None:
        return None
    by_patch = torch.full((num_patches,), torch.nan)
    by_patch[candidates] = torch.tensor(relevance)
    return by_patch


def _numbers(values: torch.Tensor | None) -> list[float | None] | None:
    """Values as JSON has them, which knows no NaN."""
    if values is None:
        return None
    return [None if math.isnan(value) else value for value in values.tolist()]


def _encoded(pictures: list[Image.Image], kind: str, **options: Any) -> str:
    """A file of that kind, base64; of several pictures an animation."""
    data = io.BytesIO()
    first, *others = pictures
    more = {"save_all": True, "append_images": others} if others else {}
    first.save(data, kind, **more, **options)
    return base64.b64encode(data.getvalue()).decode()
