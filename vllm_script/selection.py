"""What was selected of an image, and the worker's shelf of selections that somebody asked for."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch

MOST_KEPT = 256
"""Selections on a shelf until they are fetched; beyond it the oldest go. At 672x672: 5 MB."""


@dataclass(frozen=True)
class Selection:
    """The visual tokens of one image that stay."""

    kept: torch.Tensor
    """[K] int64: rows of the image's features, which are its patches, ascending."""
    relevance: torch.Tensor | None
    """[P] of the layout's candidates, high = keep; None where the selection reads none."""


class Shelf:
    """Selections by name, in the worker's main memory until the API process fetches them."""

    def __init__(self) -> None:
        self._selections: OrderedDict[str, dict[str, Any]] = OrderedDict()  # oldest first

    def put(self, name: str, selection: Selection) -> None:
        """Keep a selection as plain lists."""
        relevance = selection.relevance
        self._selections[name] = {
            "kept": selection.kept.tolist(),
            "relevance": None if relevance is None else relevance.float().tolist(),
        }
        if len(self._selections) > MOST_KEPT:
            self._selections.popitem(last=False)

    def take(self, names: list[str]) -> list[dict[str, Any] | None]:
        """The selections of those names, each once; None for what is not here.

        Returns:
            kept: as in `Selection`, list[int].
            relevance: as in `Selection`, list[float] or None.
        """
        return [self._selections.pop(name, None) for name in names]
