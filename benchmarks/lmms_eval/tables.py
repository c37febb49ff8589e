"""What was found, as Markdown tables, and beside it what papers published."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..common import bullets, markdown
from .published import AVERAGES, SCORES
from .running import Cell
from .settings import UNPRUNED, Setting, published_name

Found = Mapping[tuple[str, str], Cell]
"""(setting, task) -> what was found."""

CAVEAT = """\
Papers evaluate other sets of tasks, most with the authors' code in float16 and one question at a
time, and count the tokens of LLaVA-NeXT before padding is taken off. Compare what stands at about
the same visual tokens of a picture, and by points rather than by tenths."""


def report(about: dict[str, Any], settings: Sequence[Setting], cells: Sequence[Cell]) -> str:
    """All tables."""
    found = {(cell.setting, cell.task): cell for cell in cells}
    tasks = list(dict.fromkeys(cell.task for cell in cells))
    parts = [
        bullets(about),
        "## Scores, and per cent of unpruned\n\n" + _scores(settings, tasks, found),
        "## Visual tokens of a question\n\n" + _tokens(settings, tasks, found),
    ]
    if any(cell.refused for cell in cells):
        parts.append("## Refused questions\n\n" + _refused(cells))
    if paper := published_name(str(about["model"])):
        parts.append(f"## Beside published averages, {paper}\n\n{CAVEAT}")
        parts.append(_beside_averages(paper, settings, tasks, found))
        parts += _beside_scores(paper, settings, tasks, found)
    return "\n\n".join(parts) + "\n"


def relative(cell: Cell, whole: Cell) -> float:
    """A score in per cent of the unpruned one."""
    return 100 * cell.score / whole.score if whole.score else math.nan


def _average(setting: Setting, tasks: Sequence[str], found: Found) -> float:
    """Mean over tasks of the per cent of unpruned."""
    shares = [relative(found[str(setting), t], found[str(UNPRUNED), t]) for t in tasks]
    return sum(shares) / len(shares)


def _scores(settings: Sequence[Setting], tasks: Sequence[str], found: Found) -> str:
    rows = []
    for setting in settings:
        cells = [found[str(setting), task] for task in tasks]
        shown = [f"{cell.score:.1f}" for cell in cells]
        if setting != UNPRUNED:
            shares = [relative(cell, found[str(UNPRUNED), cell.task]) for cell in cells]
            shown = [f"{text} ({share:.1f} %)" for text, share in zip(shown, shares, strict=True)]
        rows.append([str(setting), *shown, f"{_average(setting, tasks, found):.1f} %"])
    return markdown(["setting", *tasks, "average"], rows)


def _tokens(settings: Sequence[Setting], tasks: Sequence[str], found: Found) -> str:
    rows = []
    for setting in settings:
        shown = [_tokens_of(found[str(setting), t], found[str(UNPRUNED), t]) for t in tasks]
        rows.append([str(setting), *shown])
    return markdown(["setting", *tasks], rows)


def _tokens_of(cell: Cell, whole: Cell) -> str:
    """Visual tokens and their ratio; where a server does not show them, those it has saved."""
    if cell.visual_tokens is not None and whole.visual_tokens:
        return f"{cell.visual_tokens:.0f} ({cell.visual_tokens / whole.visual_tokens:.3f})"
    return f"{cell.prompt_tokens - whole.prompt_tokens:+.0f} of {whole.prompt_tokens:.0f} in all"


def _refused(cells: Sequence[Cell]) -> str:
    rows = [[c.setting, c.task, f"{c.refused} of {c.questions}"] for c in cells if c.refused]
    return markdown(["setting", "task", "refused, and counted as answered with nothing"], rows)


def _beside_averages(
    paper: str, settings: Sequence[Setting], tasks: Sequence[str], found: Found
) -> str:
    budgets = list(dict.fromkeys(s.published for s in settings if s.published))
    ours: dict[str | None, dict[str | None, str]] = {}
    for setting in settings:
        if setting != UNPRUNED:
            average = f"**{_average(setting, tasks, found):.1f}**"
            ours.setdefault(setting.mode, {})[setting.published] = average
    rows = [
        [
            mode or "server's mode",
            *(shown.get(b, "") for b in budgets),
            f"this run, {len(tasks)} tasks",
        ]
        for mode, shown in ours.items()
    ]
    for row in AVERAGES:
        if row.model == paper and any(budget in row.averages for budget in budgets):
            values = [f"{row.averages[b]:.1f}" if b in row.averages else "" for b in budgets]
            rows.append([row.method, *values, row.source])
    return markdown(["per cent of unpruned", *map(str, budgets), "source"], rows)


def _beside_scores(
    paper: str, settings: Sequence[Setting], tasks: Sequence[str], found: Found
) -> list[str]:
    parts = []
    for (model, budget), published in SCORES.items():
        ours = [setting for setting in settings if setting.published == budget]
        shared = [task for task in tasks if task in next(iter(published.values()))]
        if model == paper and ours and shared:
            rows = [
                [f"**{s}**", *(f"{found[str(s), task].score:.1f}" for task in shared)] for s in ours
            ]
            rows += [[m, *(f"{values[t]:.1f}" for t in shared)] for m, values in published.items()]
            heading = f"## Beside published scores, {paper} at {budget} tokens\n\n"
            parts.append(heading + markdown(["method", *shared], rows))
    return parts
