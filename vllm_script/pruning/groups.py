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

    Tasks of a group have mode, parameters and backend in common, and either all have a relevance or
    none has, and either all keep all their tokens or none does. A video with floors is a group of
    its own. Memory is for the squares of their tokens, so a group has no more of these than one
    selection in MAX_TOKENS.

    Args:
        tasks: of at most MAX_TOKENS tokens each.

    Returns:
        the places of each group's tasks among `tasks`.
    """
    groups: list[list[int]] = []
    last: dict[Hashable, tuple[list[int], int]] = {}  # of each kind, and what else fits into it
    for place, task in enumerate(tasks):
        is_video, squares = task.floors is not None, task.num_tokens**2
        kind = (
            *(task.mode, task.params, task.backend),
            *(task.relevance is None, task.keeps_all, is_video),
        )
        group, room = last.get(kind, ([], 0))
        if is_video or squares > room:
            group, room = [], MAX_TOKENS**2
            groups.append(group)
        group.append(place)
        last[kind] = group, room - squares
    return groups
