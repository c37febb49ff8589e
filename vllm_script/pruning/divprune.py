"""DivPrune: keep tokens that are as unlike each other as can be, whatever is asked.

Each next token is the one farthest from its nearest pick, by 1 - cosine. With geometry `centered`
its distance is weighed by how distinct it is (geometry.py).

Source: Alvar et al., CVPR 2025, arXiv 2503.02175, vbdi/divprune@799e2d9; kernels.farthest_first
says how ours differs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vllm_script.kernels import farthest_first

from .geometry import corrected_similarity, weights_of
from .task import Task, kept_of_picks


def divprune(tasks: Sequence[Task]) -> list[torch.Tensor]:
    """Spread the picks over what there is to see."""
    weight = weights_of(tasks, [None] * len(tasks))
    budgets = [task.budget for task in tasks]
    return kept_of_picks(farthest_first(corrected_similarity(tasks), budgets, weight), tasks)
