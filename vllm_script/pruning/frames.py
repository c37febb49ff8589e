"""Selection among the tokens of a video: no frame is left without any.

Frames have equally many tokens, one frame after the other. Where the prompt has a run of
placeholders for every frame, every frame keeps the same part; else one token of each frame is
certain and all others compete, so that frames with more to see keep more.
"""

from __future__ import annotations

import torch

from ..budget import even_shares
from . import PruningParams, run_mode


def run_mode_in_frames(
    visual_tokens: torch.Tensor,
    budget: int,
    relevance: torch.Tensor | None,
    mode: str,
    params: PruningParams,
    num_frames: int,
    even: bool,
) -> torch.Tensor:
    """`run_mode` for a video.

    Args:
        visual_tokens: [num_frames * tokens of a frame, D].
        budget: tokens to keep, at least num_frames.
        even: whether frames keep equal shares, rather than at least one token each.

    Returns:
        kept indices [budget] int64, ascending.
    """
    size = len(visual_tokens) // num_frames
    shares = even_shares(budget, num_frames) if even else [1] * num_frames
    kept = []
    for frame, share in enumerate(shares):
        own = slice(frame * size, (frame + 1) * size)
        scores = None if relevance is None else relevance[own]
        kept.append(run_mode(visual_tokens[own], share, scores, mode, params) + own.start)
    certain = torch.cat(kept)
    if even or budget == num_frames:
        return certain
    is_free = torch.ones(len(visual_tokens), dtype=torch.bool, device=visual_tokens.device)
    is_free[certain] = False
    # Its size is known, so that the host need not wait for the device to count.
    free = is_free.long().topk(len(visual_tokens) - num_frames).indices.sort().values
    scores = None if relevance is None else relevance[free]
    more = run_mode(visual_tokens[free], budget - num_frames, scores, mode, params)
    return torch.cat([certain, free[more]]).sort().values
