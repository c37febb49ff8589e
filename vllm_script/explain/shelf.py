"""Selections that somebody asked to see, in the worker until the API process fetches them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from ..worker.selector import Selection

MOST_KEPT = 256
"""Selections on a shelf until they are fetched; beyond it the oldest go. At 672x672: 4 MB."""


class Shelf:
    """Selections by name, in the worker's main memory."""

    def __init__(self) -> None:
        self._selections: OrderedDict[str, Selection] = OrderedDict()  # oldest first

    def put(self, name: str, selection: Selection) -> None:
        """Keep a copy of a selection."""
        kept, relevance, candidates = selection.kept, selection.relevance, selection.candidates
        self._selections[name] = Selection(
            kept.cpu(),
            None if relevance is None else relevance.float().cpu(),
            None if candidates is None else candidates.cpu(),
        )
        if len(self._selections) > MOST_KEPT:
            self._selections.popitem(last=False)

    def take(self, names: list[str]) -> list[dict[str, Any] | None]:
        """Return the selections of those names, each once; None for what is not here.

        Returns:
            for each name, the fields of its `Selection` as lists of numbers, which other processes
            can be sent.
        """
        taken = [self._selections.pop(name, None) for name in names]
        return [None if selection is None else _as_lists(selection) for selection in taken]


def _as_lists(selection: Selection) -> dict[str, Any]:
    fields = vars(selection).items()
    return {name: None if values is None else values.tolist() for name, values in fields}
