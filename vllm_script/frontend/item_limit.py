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
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from vllm.multimodal.parse import MultiModalDataItems
from vllm.multimodal.processing import ProcessorInputs

from ..config import ScriptConfig
from ..family import Family
from ..vllm_types import ProcessingInfo
from .request import ScriptRequest, refusal

_CHOOSING = frozenset({"fps", "num_frames", "do_sample_frames", "cap_pixels_per_frame"})
"""Arguments by which a request has the Hugging Face processor choose frames, or shrink them."""


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


class ItemLimit:
    """The most visual tokens that an item of one model may have before pruning.

    Args:
        config: the server's settings, with the limit that the operator chose, if any.
        family, info: of the model.
    """

    def __init__(self, config: ScriptConfig, family: Family, info: ProcessingInfo) -> None:
        self._chosen = config.max_item_tokens
        self._family = family
        self._info = info
        self._context = info.ctx.model_config.max_model_len

    def of(self, request: ScriptRequest, modality: str) -> float:
        """Return the limit on a request's items of one modality.

        The operator can raise it where the dummies of memory profiling grow with it, else lower it.
        """
        if not request.counted:  # the dummies of memory profiling are what the limit is made of
            return math.inf
        if self._chosen is not None and modality == "video" and self._videos_grow:
            return self._chosen
        stock = max(self.largest_item, request.encoder_cache_size)
        return stock if self._chosen is None else min(self._chosen, stock)

    @cached_property
    def largest_item(self) -> int:
        """Visual tokens of the largest item that stock vLLM profiles for the model."""
        limits = self._info.allowed_mm_limits
        served = [modality for modality in self._family.modalities if limits.get(modality, 0) > 0]
        largest = (self._family.largest_item(self._info, m, self._context) for m in served)
        return max(largest, default=0)

    def video_tokens(self, video: Any, kwargs: Mapping[str, object]) -> int | None:
        """Return the visual tokens of a decoded video before pruning; None where not known yet.

        Args:
            kwargs: the request's `mm_processor_kwargs`.
        """
        frames = _frames(video)
        asked = self._info.ctx.get_merged_mm_kwargs(kwargs)
        chooses = not _CHOOSING.isdisjoint({**asked, **asked.get("videos_kwargs", {})})
        if len(frames) == 0 or chooses:
            return None
        return self._family.video_tokens(self._info, *_shape(frames), kwargs)

    def dummies(
        self, stock: ProcessorInputs, settings: ScriptConfig
    ) -> tuple[ProcessorInputs, ScriptConfig]:
        """Return what memory is profiled with: stock's dummies, with videos at the chosen limit.

        Args:
            settings: by which the dummies are to be pruned. What is kept of a video that is larger
                than the context fits it, as what is kept of any request's item must.
        """
        items, limit = stock.mm_data_items, self._chosen
        if limit is None or not items.get("video") or not self._videos_grow:
            return stock, settings
        own = [self._dummy_video(video, limit) for video in items["video"]]
        videos = self._info.parse_mm_data({"video": own}, validate=False)
        fits = max(self._context / limit, settings.min_keep_ratio)
        return (
            replace(stock, mm_data_items=MultiModalDataItems({**items, **videos})),
            replace(settings, keep_ratio=min(settings.max_keep_ratio, fits)),
        )

    @cached_property
    def _videos_grow(self) -> bool:
        """Whether more frames are more visual tokens, so that a dummy can have as many as asked."""
        is_video = "video" in self._family.modalities
        return is_video and self._family.video_tokens(self._info, 1, 1, 1, {}) is not None

    def _dummy_video(self, video: Any, limit: int) -> Any:
        """A video of the fewest frames that have `limit` visual tokens before pruning.

        Args:
            video: stock vLLM's dummy, whose frames are all alike: an array of frames, or a pair of
                that and its metadata.

        Raises:
            ValueError: main memory has no room for such a video.
        """
        frames = _frames(video)
        _, height, width = _shape(frames)

        def tokens(num_frames: int) -> int:
            count = self._family.video_tokens(self._info, num_frames, height, width, {})
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
                f"--script-max-item-tokens {limit} is profiled with a video of {num_frames} frames "
                f"of {width}x{height}, {math.prod(shape) / 2**30:.0f} GiB for which main memory "
                "has no room; choose a smaller limit"
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
