"""How a model is asked: with all of its visual tokens, and at the budgets that papers published.

Published budgets for LLaVA-NeXT are the same share of every crop, of 576 tokens each, before
padding is taken off: "640 tokens" are 128 a crop, of five crops in most pictures.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

PER_CROP = "/crop"
MOST_CROPS = 5
"""Crops that LLaVA-NeXT makes of most pictures; published budgets are for these."""
BUDGETS = {
    "LLaVA-1.5-7B": ("192", "128", "64", "32"),
    "LLaVA-NeXT-7B": ("128/crop", "64/crop", "32/crop"),
    "Qwen2.5-VL-7B": ("0.2", "0.1", "0.05"),
}
"""Model as papers call it -> the budgets that they have."""
MODELS = {
    "LLaVA-1.5-7B": r"llava-1\.5(-7b.*)?",
    "LLaVA-NeXT-7B": r"llava-next|llava-v1\.6-vicuna-7b.*",
    "Qwen2.5-VL-7B": r"qwen2\.5-vl-7b.*",
}
OTHER_BUDGETS = ("0.2", "0.1", "0.05")
"""For a model that no paper has."""


@dataclass(frozen=True)
class Setting:
    """One way to ask. Without a budget: all visual tokens."""

    budget: str | None = None
    """As on the command line: "0.1", "64", "64/crop"."""
    mode: str | None = None
    """The method that chooses the tokens; None leaves it to the server."""

    @property
    def script(self) -> dict[str, Any]:
        """The `script` field of a request; a budget by crops comes into it for each picture."""
        fields: dict[str, Any] = {} if self.mode is None else {"mode": self.mode}
        if self.budget is None:
            fields["keep_ratio"] = 1.0
        elif self.tokens_per_crop is None:
            value = float(self.budget)
            small = value <= 1
            fields |= {"keep_ratio": value} if small else {"visual_token_budget": int(value)}
        return fields

    @property
    def tokens_per_crop(self) -> int | None:
        """Visual tokens of each crop, where that is the budget."""
        if self.budget is None or not self.budget.endswith(PER_CROP):
            return None
        return int(self.budget.removesuffix(PER_CROP))

    @property
    def published(self) -> str | None:
        """What papers call the budget: "640", "10 %"; None: they have no such thing."""
        if self.budget is None:
            return None
        if self.tokens_per_crop is not None:
            return str(MOST_CROPS * self.tokens_per_crop)
        value = float(self.budget)
        return f"{100 * value:g} %" if value <= 1 else f"{value:g}"

    @property
    def folder(self) -> str:
        """A folder's name for its results."""
        return re.sub(r"[^\w.]+", "-", str(self))

    def __str__(self) -> str:
        if self.budget is None:
            return "unpruned"
        if self.tokens_per_crop is not None:
            what = f"{self.tokens_per_crop} tokens a crop"
        else:
            fields = Setting(self.budget).script
            what = (
                f"keep ratio {self.budget}" if "keep_ratio" in fields else f"{self.budget} tokens"
            )
        return what if self.mode is None else f"{self.mode}, {what}"


UNPRUNED = Setting()


def published_name(model: str) -> str | None:
    """What papers call a model, by its short name or repository; None: they do not have it."""
    name = model.rstrip("/").rpartition("/")[2].lower()
    return next((paper for paper, form in MODELS.items() if re.fullmatch(form, name)), None)


def settings_of(
    model: str, budgets: Sequence[str] | None, modes: Sequence[str] | None
) -> list[Setting]:
    """All tokens, then every mode at every budget; by default those that papers have for the model.

    Raises:
        ValueError: a budget is none.
    """
    chosen: Sequence[str] = budgets or BUDGETS.get(published_name(model) or "", OTHER_BUDGETS)
    for budget in chosen:
        form = re.fullmatch(r"0?\.\d*[1-9]\d*|[1-9]\d*(/crop)?", budget)
        if form is None or budget == "1":
            raise ValueError(
                f"a budget is a keep ratio such as 0.1, a number of tokens such as 64, or tokens "
                f"of every crop such as 64{PER_CROP}, not {budget!r}"
            )
    methods: Sequence[str | None] = modes or [None]
    pruned = [Setting(budget, mode) for mode in methods for budget in chosen]
    return [UNPRUNED, *pruned]
