"""Videos: what each frame is sure to keep, and how modes hold to it.

Frames have equally many tokens, one frame after the other. Where the prompt has a run of
placeholders for every frame, every frame keeps the same part; else one token of each frame is
certain and all others compete, so that frames with more to see keep more.

Script knows of frames itself: its graph joins tokens of neighbouring ones, and QCSP selects in the
whole video at once. The modes it is compared with select frame by frame what is certain.
"""

from __future__ import annotations

import torch

from vllm_script.kernels import Pool, Similarity, reduce_graph, to_device

from ..budget import even_shares, shares
from .pools import layout_of, mask_of, pool_of
from .task import Select, Task

# Frames of one graph: what stands still does so from one frame to the next, and the cost of a
# graph is the square of its tokens.
WINDOW_FRAMES = 4


def frame_floors(budget: int, num_frames: int, even: bool) -> list[int]:
    """Tokens that each frame is sure to keep of a budget that has one for each.

    Args:
        even: whether all frames are to keep equal shares.
    """
    return even_shares(budget, num_frames) if even else [1] * num_frames


def reduce_video_graph(similarity: Similarity, task: Task, target: int) -> Pool:
    """GSP of a video: `reduce_graph` in windows of neighbouring frames.

    In a window the tokens are ordered by their place among the frame's, those of one place by time.
    So what stands still is on both sides of the graph.

    Args:
        similarity: of the tokens of the task, a video.

    Returns:
        the pool: about `target` rows of the video, more where edges ran out, and all rows of a
        frame that would be left with less than its floor.
    """
    assert task.floors is not None, "reduce_video_graph is for videos"
    num_tokens, num_frames, device = task.num_tokens, len(task.floors), task.tokens.device
    windows = windows_of_frames(num_tokens, num_frames)
    lengths = [len(rows) for rows in windows]
    targets = shares(target, lengths)
    left = reduce_graph(similarity, targets, **task.params.graph, windows=windows)
    of_frame = mask_of(left, layout_of(lengths, device)).view(num_frames, -1)
    is_short = of_frame.sum(1) < to_device(torch.tensor(task.floors), device)
    in_pool = (of_frame | is_short[:, None]).flatten()
    return pool_of(in_pool, layout_of([num_tokens], device))


def windows_of_frames(
    num_tokens: int, num_frames: int, longest: int = WINDOW_FRAMES
) -> list[torch.Tensor]:
    """Rows of the video in each window, place by place.

    With every place another frame comes first, so that tokens side by side in a frame are on the
    two sides of the graph too.

    Args:
        longest: frames of a window, at most.
    """
    lengths = even_shares(num_frames, -(-num_frames // longest))
    frames = torch.arange(num_tokens).view(num_frames, -1)  # [frames, places]
    places = torch.arange(frames.shape[1])[:, None]
    windows = []
    for window in frames.split(lengths):
        turned = (torch.arange(len(window)) + places) % len(window)  # [places, frames of window]
        windows.append(window.T.gather(1, turned).flatten())
    return windows


def frame_by_frame(select: Select, task: Task) -> torch.Tensor:
    """Keep the floors of a video's frames with a selection that knows no frames.

    It selects in each frame what the frame is sure to keep, and the rest of the budget among all
    other tokens.

    Returns:
        kept indices [budget] int64, ascending.
    """
    assert task.floors is not None, "frame_by_frame is for videos"
    starts = range(0, task.num_tokens, task.num_tokens // len(task.floors))
    frames = [
        task.part(slice(start, start + starts.step), floor)
        for start, floor in zip(starts, task.floors, strict=True)
    ]
    kept = select(frames)
    certain = torch.cat([own + start for own, start in zip(kept, starts, strict=True)])
    if len(certain) == task.budget:
        return certain
    is_free = torch.ones(task.num_tokens, dtype=torch.bool, device=task.tokens.device)
    is_free.index_fill_(0, certain, False)
    # Its size is known, so that the host need not wait for the device to count.
    free = is_free.long().topk(task.num_tokens - len(certain)).indices.sort().values
    (more,) = select([task.part(free, task.budget - len(certain))])
    return torch.cat([certain, free[more]]).sort().values
