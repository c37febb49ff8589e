"""The placeholders that vLLM puts in a prompt for an item: counted, and made fewer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from vllm.multimodal.processing.processor import PromptUpdateDetails

from ..budget import even_shares


def shortened(stock: Any, count: int) -> Any:
    """A prompt replacement with `count` placeholders, shared out evenly among its runs of them."""
    details = stock if isinstance(stock, PromptUpdateDetails) else PromptUpdateDetails(stock)
    mask, places = placeholder_mask(stock), torch.arange(len(details.full))
    starts = mask.clone()
    starts[1:] &= ~mask[:-1]
    shares = torch.tensor(even_shares(count, int(starts.sum())))[starts.cumsum(0) - 1]
    place_in_run = places - torch.where(starts, places, 0).cummax(0).values
    kept = ~mask | (place_in_run < shares)
    return replace(details, full=torch.tensor(details.full)[kept].tolist())


def placeholder_mask(content: Any) -> torch.Tensor:
    """[length] bool: which tokens of a prompt replacement are placeholders."""
    if isinstance(content, PromptUpdateDetails) and content.is_embed is not None:
        mask: torch.Tensor = content.is_embed(content.full)
        return mask
    full = content.full if isinstance(content, PromptUpdateDetails) else content
    return torch.ones(len(full), dtype=torch.bool)
