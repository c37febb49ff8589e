"""Items of very many visual tokens: selected in windows that know nothing of each other.

A selection in one item takes memory for the square of its tokens, and time for the budget times
the tokens. In windows of at most MAX_TOKENS both are linear in the size of the item, and the
kernels need not be compiled for more. A window's share of the budget is its share of the tokens:
it follows from the layout alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

from vllm_script.kernels import MAX_TOKENS

from ..budget import even_shares
from .task import Task


def windows_of(task: Task) -> Iterator[tuple[int, Task]]:
    """Yield the tasks of the windows that an item is selected in, in its order.

    An item of at most MAX_TOKENS is one window. Else a window is some whole frames of a video where
    a frame has at most MAX_TOKENS tokens, or a stretch of tokens in reading order. Frames keep
    their floors. A window that gets no share of the budget is left out.

    Yields:
        first token of the window in the item, and the selection in the window.
    """
    if task.num_tokens <= MAX_TOKENS:
        yield 0, task
        return
    for start, end, floors in _windows(task.num_tokens, task.floors):
        # A video's floors are at most even shares of the budget, so a window's share has them.
        share = task.budget * end // task.num_tokens - task.budget * start // task.num_tokens
        if share > 0:
            yield start, task.part(slice(start, end), share, floors)


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
