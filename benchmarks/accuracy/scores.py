"""Scored answers, and the file that keeps them: everything that tables and plots show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..common import read_lines, write_lines
from .asking import Answers
from .questions import Item
from .scoring import IN_PARTS, YES_NO, points
from .settings import BLIND, WHOLE, Setting


class Shadow(NamedTuple):
    """What shadow mode measures, in the mean over questions: first tokens pruned and unpruned."""

    distance: float
    """Total variation of their distributions: 0 equal, 1 disjoint."""
    agreement: float
    """Share of questions whose likeliest first token is the same."""


@dataclass(frozen=True)
class Scores:
    """Right or wrong, or points, for every question in every setting."""

    about: dict[str, Any]
    """What was measured, on what, when, by which command."""
    kinds: list[str]
    """Kind of each question [n]."""
    right: dict[Setting, np.ndarray]
    """bool [n] for each setting; float [n] in [0, 1] where some rule gives parts of a point."""
    prompt_tokens: dict[Setting, float] = field(default_factory=dict)
    """Mean length of the prompts."""
    shadow: dict[Setting, Shadow] = field(default_factory=dict)
    """How far first tokens are from those of all tokens, where that was asked for."""
    yes: list[bool | None] = field(default_factory=list)
    """Whether each question's right answer is yes; None if it has another rule than yes-no."""

    @property
    def whole(self) -> np.ndarray:
        """Right or wrong [n] with all tokens."""
        return self.right[WHOLE]

    @property
    def blind(self) -> np.ndarray | None:
        """Right or wrong [n] without the picture; None if that was not asked."""
        return self.right.get(BLIND)

    @property
    def asks_yes_no(self) -> bool:
        """Whether there are questions by the rule yes-no."""
        return any(truth is not None for truth in self.yes)

    @property
    def methods(self) -> list[str]:
        """Methods in the order of the grid, without "all tokens" and "no picture"."""
        return list(dict.fromkeys(s.method for s in self.right if s.mode))

    @property
    def ratios(self) -> list[float]:
        """Keep ratios of these methods, descending."""
        return sorted({s.keep_ratio for s in self.right if s.mode}, reverse=True)

    def of_method(self, method: str) -> dict[float, np.ndarray]:
        """Right or wrong of one method at each of its ratios."""
        return {s.keep_ratio: right for s, right in self.right.items() if s.method == method}

    def save(self, path: Path) -> None:
        """Write one line about the run, one with the kinds, and one for each setting."""
        of_questions = {"kinds": self.kinds} | ({"yes": self.yes} if self.asks_yes_no else {})
        lines: list[dict[str, Any]] = [self.about, of_questions]
        for setting, right in self.right.items():
            tokens = round(self.prompt_tokens[setting], 1)
            line = asdict(setting) | {"prompt_tokens": tokens} | _line_of(right)
            if setting in self.shadow:
                line |= self.shadow[setting]._asdict()
            lines.append(line)
        write_lines(path, lines)

    @classmethod
    def load(cls, path: Path) -> Scores:
        """Read what `save` has written."""
        about, kinds, *lines = read_lines(path)
        scores = cls(about, kinds["kinds"], {}, yes=kinds.get("yes", []))
        names = [each.name for each in fields(Setting)]
        for line in lines:
            setting = Setting(**{name: line[name] for name in names if name in line})
            scores.right[setting] = _of_line(line)
            scores.prompt_tokens[setting] = line["prompt_tokens"]
            if "distance" in line:
                scores.shadow[setting] = Shadow(line["distance"], line["agreement"])
        return scores


def score(
    about: dict[str, Any], items: Sequence[Item], settings: Sequence[Setting], answers: Answers
) -> Scores:
    """Score the answers; every item has one in every setting."""
    yes = [item.answers[0].lower() == "yes" if item.rule == YES_NO else None for item in items]
    scores = Scores(about, [item.kind for item in items], {}, yes=yes)
    parts = any(item.rule in IN_PARTS for item in items)
    for setting in settings:
        replies = [answers[item.id, str(setting)] for item in items]
        pairs = zip(items, replies, strict=True)
        gained = np.array([points(i.rule, reply["answer"], i.answers) for i, reply in pairs])
        scores.right[setting] = gained if parts else gained == 1
        scores.prompt_tokens[setting] = float(np.mean([r["prompt_tokens"] for r in replies]))
    if all("first" in answers[item.id, str(s)] for item in items for s in settings):
        for setting in settings:
            if setting != WHOLE:
                scores.shadow[setting] = _shadow(items, setting, answers)
    return scores


def _shadow(items: Sequence[Item], setting: Setting, answers: Answers) -> Shadow:
    """Compare first tokens with those of all tokens, by the formula of shadow mode."""
    from vllm_script.server.shadow import total_variation

    distances, agreements = [], []
    for item in items:
        whole, pruned = (answers[item.id, str(s)]["first"] for s in (WHOLE, setting))
        distances.append(total_variation(whole, pruned))
        agreements.append(max(whole, key=whole.get) == max(pruned, key=pruned.get))
    return Shadow(round(float(np.mean(distances)), 4), round(float(np.mean(agreements)), 4))


def _line_of(right: np.ndarray) -> dict[str, Any]:
    """Right or wrong as a text of digits, points as numbers."""
    if right.dtype == bool:
        return {"right": "".join("01"[int(hit)] for hit in right)}
    return {"points": [round(float(value), 4) for value in right]}


def _of_line(line: dict[str, Any]) -> np.ndarray:
    if "points" in line:
        return np.array(line["points"])
    return np.array([digit == "1" for digit in line["right"]])
