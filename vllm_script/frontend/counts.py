"""Refuse an item of which vLLM, our layout and the pixels do not give the same number of tokens.

The worker would find other rows than the prompt has placeholders for.
"""

from __future__ import annotations

from typing import Any

from vllm.exceptions import VLLMValidationError

from ..layout import Layout
from .placeholders import placeholder_mask


def check_layout(stock: Any, layout: Layout | None) -> None:
    """Refuse an image whose layout is not vLLM's; the start-up sends dummies, and ends so."""
    length = int(placeholder_mask(stock).sum())
    if layout is not None and length != (ours := layout.num_placeholders):
        raise VLLMValidationError(
            f"vLLM gives an image {length} placeholders, the script plugin {ours}: it does "
            "not know this model, or not with what mm_processor_kwargs asks for",
            parameter="mm_processor_kwargs",
        )


def check_pixels(by_size: Layout, by_pixels: Layout) -> None:
    """Refuse an image that mm_processor_kwargs made into other tokens than its size tells.

    vLLM counts placeholders by the size, and the worker would find other rows.
    """
    if by_size.counts != by_pixels.counts:
        raise VLLMValidationError(
            f"an image of this size has {by_size.num_placeholders} visual tokens, and "
            f"{by_pixels.num_placeholders} with what mm_processor_kwargs asks for; leave out "
            "what changes how this model resizes images",
            parameter="mm_processor_kwargs",
        )


def check_room(stock: Any, total: int | None, name: str) -> None:
    """Refuse an item that has other visual tokens than vLLM makes room for in the prompt.

    For some models vLLM counts the frames of a video by what stands beside them.
    """
    if (length := int(placeholder_mask(stock).sum())) != total:
        raise VLLMValidationError(
            f"{name} has {total} visual tokens, and vLLM makes room for {length} in the "
            "prompt: its frames are not those that its metadata names (frames_indices, "
            "total_num_frames, fps); send the metadata that belongs to the frames",
            parameter="prompt",
        )
