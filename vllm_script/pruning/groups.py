"""Selections that are made together: one call of the kernels for many images.

The launches of a selection take the host longer than most images take a GPU, and a small image
leaves most of a GPU idle. What is kept of an image is the same, to the bit, whatever is beside it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from vllm_script.kernels import MAX_TOKENS

from .task import Task


def groups_of(tasks: Iterable[Task]) -> list[list[int]]:
    """Put tasks that one call can select into groups, in their order.

    Tasks of a group have mode, parameters, backend, dtype and width of the tokens in common, and
    either all have a relevance or none has, and either all keep all their tokens or none does. A
    video with floors is a group of its own. A group takes memory for its tokens times those of its
    largest task, and is given no more of it than a selection in MAX_TOKENS takes.

    Args:
        tasks: of at most MAX_TOKENS tokens each.

    Returns:
        the places of each group's tasks among `tasks`.
    """
    groups: list[_Group] = []
    last: dict[Hashable, _Group] = {}
    for place, task in enumerate(tasks):
        kind = (
            *(task.mode, task.params, task.backend),
            *(task.tokens.dtype, task.tokens.shape[1], task.tokens.device),
            *(task.relevance is None, task.keeps_all, task.floors is None),
        )
        group = last.get(kind)
        if group is None or task.floors is not None or not group.has_room(task):
            group = last[kind] = _Group()
            groups.append(group)
        group.add(place, task)
    return [group.places for group in groups]


class _Group:
    """Tasks of one kind."""

    def __init__(self) -> None:
        self.places: list[int] = []
        self._tokens = self._largest = 0

    def has_room(self, task: Task) -> bool:
        """Whether a task fits in beside those that are there."""
        tokens, largest = self._tokens + task.num_tokens, max(self._largest, task.num_tokens)
        return tokens * largest <= MAX_TOKENS**2

    def add(self, place: int, task: Task) -> None:
        """Add the task of that place."""
        self.places.append(place)
        self._tokens += task.num_tokens
        self._largest = max(self._largest, task.num_tokens)
