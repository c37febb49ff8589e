"""What was selected of an image, and the worker's shelf of selections that somebody asked for."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch

MOST_KEPT = 256
"""Selections on a shelf until they are fetched; beyond it the oldest go. At 672x672: 4 MB."""


@dataclass(frozen=True)
class Selection:
    """The visual tokens of one image that stay."""

    kept: torch.Tensor
    """[K] int64: rows of the image's features, which are its patches, ascending."""
    relevance: torch.Tensor | None
    """[P] of the layout's candidates, high = keep; None where the selection reads none."""

    def as_lists(self) -> dict[str, Any]:
        """The fields as lists of numbers, which other processes can be sent."""
        relevance = None if self.relevance is None else self.relevance.tolist()
        return {"kept": self.kept.tolist(), "relevance": relevance}


class Shelf:
    """Selections by name, in the worker's main memory until the API process fetches them."""

    def __init__(self) -> None:
        self._selections: OrderedDict[str, Selection] = OrderedDict()  # oldest first

    def put(self, name: str, selection: Selection) -> None:
        """Keep a copy of a selection."""
        relevance = selection.relevance
        copied = None if relevance is None else relevance.float().cpu()
        self._selections[name] = Selection(selection.kept.cpu(), copied)
        if len(self._selections) > MOST_KEPT:
            self._selections.popitem(last=False)

    def take(self, names: list[str]) -> list[dict[str, Any] | None]:
        """The selections of those names, each once; None for what is not here.

        Returns:
            fields as in `Selection`, as lists of numbers.
        """
        taken = [self._selections.pop(name, None) for name in names]
        return [None if selection is None else selection.as_lists() for selection in taken]
