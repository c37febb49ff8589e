"""MMR, maximal marginal relevance: keep what is relevant and unlike what is kept already.

The first pick is the most relevant token. Each next one has the largest

    relevance_i + 1 - the cosine of i with its nearest pick

with the relevance rescaled to [0, 1] by minimum and maximum, so that both count the same.

Source: Carbonell and Goldstein, SIGIR 1998; IDPruner, arXiv 2602.13315, selects visual tokens so,
with these weights (Tencent/AngelSlim@67394ce, algorithm/idpruner.py). Differs: there a trained
scorer says what is important, here it is the relevance to the question. Without one, and with
geometry `raw`, this is `divprune`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vllm_script.kernels import farthest_first, normalize_relevance, unit_peak

from .geometry import corrected_similarity, weights_of
from .task import Task, kept_of_picks


def mmr(tasks: Sequence[Task]) -> list[torch.Tensor]:
    """Weigh relevance against likeness to the nearest pick."""
    bonus = weights_of(tasks, [task.relevance for task in tasks])
    if bonus is not None:
        each = bonus.split([task.num_tokens for task in tasks])
        bonus = torch.cat([normalize_relevance(unit_peak(own)) for own in each])
    budgets = [task.budget for task in tasks]
    return kept_of_picks(farthest_first(corrected_similarity(tasks), budgets, bonus=bonus), tasks)
