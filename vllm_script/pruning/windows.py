"""Items of very many visual tokens: selected in windows, one after the other.

A selection in one item takes memory for the square of its tokens, and time for the budget times
the tokens. In windows of at most MAX_TOKENS both are linear in the size of the item, and the
kernels need not be compiled for more. A window's share of the budget is its share of the tokens:
it follows from the layout alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

import torch

from vllm_script.kernels import MAX_TOKENS

from ..budget import even_shares
from .task import Task


def window_by_window(select: Callable[[Task], torch.Tensor], task: Task) -> torch.Tensor:
    """Select in all tokens at once, or in each window where there are more than MAX_TOKENS.

    A window is some whole frames of a video where a frame has at most MAX_TOKENS tokens, else a
    stretch of tokens in reading order. Frames keep their floors.

    Args:
        select: returns the kept indices of a task, ascending.

    Returns:
        kept indices [budget] int64, ascending.
    """
    if task.num_tokens <= MAX_TOKENS:
        return select(task)
    kept = []
    for start, end, floors in _windows(task.num_tokens, task.floors):
        # A video's floors are at most even shares of the budget, so a window's share has them.
        share = task.budget * end // task.num_tokens - task.budget * start // task.num_tokens
        if share > 0:
            kept.append(select(task.part(slice(start, end), share, floors)) + start)
    return torch.cat(kept)


def _windows(
    num_tokens: int, floors: Sequence[int] | None
) -> Iterator[tuple[int, int, Sequence[int] | None]]:
    """First token of each window, the token behind its last one, and the floors of its frames."""
    num_frames = 1 if floors is None else len(floors)
    size = num_tokens // num_frames
    if size > MAX_TOKENS:
        stretches = even_shares(size, -(-size // MAX_TOKENS)) * num_frames
        for end, length in zip(accumulate(stretches), stretches, strict=True):
            yield end - length, end, None
        return
    assert floors is not None, "an image of more than MAX_TOKENS tokens is one large frame"
    frames = even_shares(num_frames, -(-num_frames // (MAX_TOKENS // size)))
    for end, length in zip(accumulate(frames), frames, strict=True):
        own = floors[end - length : end] if length > 1 else None
        yield (end - length) * size, end * size, own
