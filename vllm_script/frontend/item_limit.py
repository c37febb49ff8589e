"""How large one image or video may be before pruning: the limit, its check, and its dummy.

vLLM checks a prompt's length and profiles its memory after pruning. The vision tower and the
selection work before it: at keep ratio 0.11 a request might bring an item of nine times the tokens
that memory was set aside for. So an item has a limit of its own, in tokens that stock vLLM would
give it: what stock would take, or what the operator chose. Memory is profiled with the latter.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..family import Family
from ..vllm_types import ProcessingInfo
from .request import refusal

_CHOOSING = frozenset({"fps", "num_frames", "do_sample_frames", "cap_pixels_per_frame"})
"""Arguments by which a request has the Hugging Face processor choose frames, or shrink them."""


def largest_item(family: Family, info: ProcessingInfo) -> int:
    """Return the visual tokens of the largest item that stock vLLM profiles for the model."""
    limits = info.allowed_mm_limits
    served = [modality for modality in family.modalities if limits.get(modality, 0) > 0]
    max_model_len = info.ctx.model_config.max_model_len
    return max((family.largest_item(info, m, max_model_len) for m in served), default=0)


def check_item(name: str, tokens: int, limit: float) -> None:
    """Raise VLLMValidationError, an HTTP 400, for an item that is larger than the limit.

    Args:
        name: of the item, for the message.
        tokens: what it has before pruning.
        limit: the most that it may have.
    """
    if tokens > limit:
        raise refusal(
            "max_item_tokens",
            f"{name} has {tokens} visual tokens before pruning, the server takes at most {limit} "
            "of one image or video (--script-max-item-tokens); send it smaller or with fewer "
            "frames, or start the server with a larger limit",
        )


def video_tokens(
    family: Family, info: ProcessingInfo, video: Any, kwargs: Mapping[str, object]
) -> int | None:
    """Return the visual tokens of a decoded video before pruning; None where not known yet."""
    frames = _frames(video)
    asked = info.ctx.get_merged_mm_kwargs(kwargs)
    if len(frames) == 0 or not _CHOOSING.isdisjoint({**asked, **asked.get("videos_kwargs", {})}):
        return None
    return family.video_tokens(info, *_shape(frames), kwargs)


def videos_grow(family: Family, info: ProcessingInfo) -> bool:
    """Whether more frames are more visual tokens, so that `dummy_video` has as many as asked."""
    return family.video_tokens(info, 1, 1, 1, {}) is not None


def dummy_video(family: Family, info: ProcessingInfo, video: Any, limit: int) -> Any:
    """Return a video of the fewest frames that have `limit` visual tokens before pruning.

    Args:
        family: one whose videos grow, see `videos_grow`.
        video: stock vLLM's dummy, whose frames are all alike: an array of frames, or a pair of
            that and its metadata.

    Raises:
        ValueError: main memory has no room for such a video.
    """
    frames = _frames(video)
    _, height, width = _shape(frames)

    def tokens(num_frames: int) -> int:
        count = family.video_tokens(info, num_frames, height, width, {})
        assert count is not None, "called where videos grow"
        return count

    enough = 1
    while tokens(enough) < limit:
        enough *= 2
    num_frames = 1 + bisect_left(range(1, enough + 1), limit, key=tokens)
    shape = (num_frames, *np.shape(frames)[1:])
    try:
        frames = np.resize(frames, shape)
    except MemoryError:
        raise ValueError(
            f"--script-max-item-tokens {limit} is profiled with a video of {num_frames} frames of "
            f"{width}x{height}, {math.prod(shape) / 2**30:.0f} GiB for which main memory has no "
            "room; choose a smaller limit"
        ) from None
    if not isinstance(video, tuple):
        return frames
    metadata = dict(video[1])
    metadata |= {"total_num_frames": num_frames, "frames_indices": list(range(num_frames))}
    return frames, metadata | {"duration": num_frames / metadata["fps"]}


def _frames(video: Any) -> Any:
    """Frames of a video, which vLLM pairs with their metadata for some models."""
    return video[0] if isinstance(video, tuple) else video


def _shape(frames: Any) -> tuple[int, int, int]:
    """Number, height and width of frames: [height, width, 3] each, or [3, height, width]."""
    *frame, last = np.shape(frames[0])
    height, width = frame if last in (1, 3, 4) else (frame[-1], last)
    return len(frames), height, width
