"""What a mode is asked: keep so many of these visual tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from vllm_script.kernels import Backend

from .params import PruningParams


@dataclass(frozen=True, eq=False)
class Task:
    """One selection, in one image or video, of `budget` visual tokens."""

    tokens: torch.Tensor
    """[N, D] float32/float16/bfloat16, last dim contiguous: the visual tokens in reading order. A
    feature that is NaN or infinite counts as 0."""

    budget: int
    """Tokens to keep, in [1, N]."""

    relevance: torch.Tensor | None
    """[N] float32, finite and >= 0, high = keep; its scale does not matter. None: the query has no
    say."""

    mode: str
    """The method that chooses the tokens, a key of MODES."""

    params: PruningParams
    """Parameters of the modes."""

    floors: Sequence[int] | None = None
    """Of a video, the fewest tokens to keep of every frame; they add up to at most the budget.
    Frames have N / len(floors) tokens each, one frame after the other. None: an image."""

    backend: Backend = "auto"
    """Backend of the operations of kernels/: "auto" is Triton on CUDA, else torch."""

    @property
    def num_tokens(self) -> int:
        """Number N of the tokens to choose from."""
        return len(self.tokens)

    @property
    def keeps_all(self) -> bool:
        """Whether there is nothing to choose."""
        return self.budget == self.num_tokens

    def part(
        self, rows: slice | torch.Tensor, budget: int, floors: Sequence[int] | None = None
    ) -> Task:
        """The task to keep `budget` of these rows of the tokens.

        Args:
            floors: where the rows are whole frames, the fewest to keep of each.
        """
        relevance = None if self.relevance is None else self.relevance[rows]
        return replace(
            self, tokens=self.tokens[rows], budget=budget, relevance=relevance, floors=floors
        )


Select = Callable[[Sequence[Task]], list[torch.Tensor]]
"""Returns the kept indices [budget] int64 of each task, ascending."""


def kept_of_picks(picks: torch.Tensor, tasks: Sequence[Task]) -> list[torch.Tensor]:
    """Kept indices of each task, ascending, from the picks of an operation of kernels/.

    Args:
        picks: [sum of budgets] int64, task by task. Rows are numbered through all tasks, so that
            one sort is one of each.
    """
    kept, first = [], 0
    for own, task in zip(picks.sort().values.split([t.budget for t in tasks]), tasks, strict=True):
        kept.append(own - first)
        first += task.num_tokens
    return kept


def one_by_one(select: Callable[[Task], torch.Tensor]) -> Select:
    """Make a selection of one task one of many."""

    def select_each(tasks: Sequence[Task]) -> list[torch.Tensor]:
        return [select(task) for task in tasks]

    return select_each
