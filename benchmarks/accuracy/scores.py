"""Scored answers, and the file that keeps them: everything that tables and plots show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..common import read_lines, write_lines
from .asking import Answers
from .questions import Item, is_right
from .settings import WHOLE, Setting


@dataclass(frozen=True)
class Scores:
    """Right or wrong, for every question in every setting."""

    about: dict[str, Any]
    """What was measured, on what, when, by which command."""
    kinds: list[str]
    """Kind of each question [n]."""
    right: dict[Setting, np.ndarray]
    """bool [n] for each setting."""
    prompt_tokens: dict[Setting, float] = field(default_factory=dict)
    """Mean length of the prompts."""

    @property
    def whole(self) -> np.ndarray:
        """Right or wrong [n] with all tokens."""
        return self.right[WHOLE]

    @property
    def methods(self) -> list[str]:
        """Methods in the order of the grid, without "all tokens"."""
        return list(dict.fromkeys(s.method for s in self.right if s != WHOLE))

    @property
    def ratios(self) -> list[float]:
        """Keep ratios below 1, descending."""
        return sorted({s.keep_ratio for s in self.right if s != WHOLE}, reverse=True)

    def of_method(self, method: str) -> dict[float, np.ndarray]:
        """Right or wrong of one method at each of its ratios."""
        return {s.keep_ratio: right for s, right in self.right.items() if s.method == method}

    def save(self, path: Path) -> None:
        """Write one line about the run, one with the kinds, and one for each setting."""
        lines: list[dict[str, Any]] = [self.about, {"kinds": self.kinds}]
        for setting, right in self.right.items():
            digits = "".join("01"[int(hit)] for hit in right)
            tokens = round(self.prompt_tokens[setting], 1)
            lines.append(asdict(setting) | {"prompt_tokens": tokens, "right": digits})
        write_lines(path, lines)

    @classmethod
    def load(cls, path: Path) -> Scores:
        """Read what `save` has written."""
        about, kinds, *lines = read_lines(path)
        scores = cls(about, kinds["kinds"], {})
        for line in lines:
            setting = Setting(line["keep_ratio"], line["mode"], line["relevance"])
            scores.right[setting] = np.array([digit == "1" for digit in line["right"]])
            scores.prompt_tokens[setting] = line["prompt_tokens"]
        return scores


def score(
    about: dict[str, Any], items: Sequence[Item], settings: Sequence[Setting], answers: Answers
) -> Scores:
    """Score the answers; every item has one in every setting."""
    scores = Scores(about, [item.kind for item in items], {})
    for setting in settings:
        replies = [answers[item.id, str(setting)] for item in items]
        right = [is_right(r["answer"], i.answers) for r, i in zip(replies, items, strict=True)]
        scores.right[setting] = np.array(right)
        scores.prompt_tokens[setting] = float(np.mean([r["prompt_tokens"] for r in replies]))
    return scores
