"""Coverage: keep tokens that stand for all others, first of all for what the question is about.

A token stands for what it is like. Each next one is that which adds most, where the relevance of a
token says how much it counts that the token is stood for. So an irrelevant token may be kept for
what it says of a relevant one, and what nobody asks about is thinned out as far as it repeats.

Source: MMTok, arXiv 2508.18264, covers the image's tokens and, beside them, the words of the
question. Differs: no word is covered; the relevance weighs the tokens instead. On photographs the
words had hardly a say, since each is covered by its first pick (benchmarks/README.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vllm_script.kernels import cosine_similarity, greedy_cover

from .geometry import weights_of
from .task import Task, kept_of_picks


def coverage(tasks: Sequence[Task]) -> list[torch.Tensor]:
    """Cover the tokens of each task, each as far as it is relevant."""
    similarity = cosine_similarity([task.tokens for task in tasks], backend=tasks[0].backend)
    need = weights_of(tasks, [task.relevance for task in tasks])
    return kept_of_picks(greedy_cover(similarity, [task.budget for task in tasks], need), tasks)
