"""What was found, as Markdown tables and as a plot."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..common import bullets, figure, markdown
from ..intervals import Interval, mcnemar, mean, paired_difference, share
from .scores import Scores
from .settings import ALONE, BLIND, WHOLE, WHOLE_ALONE

METHOD, RATIO = "script clip", 0.11
"""What is broken down and compared with the others; the first method if this was not measured."""


def report(scores: Scores) -> str:
    """All tables."""
    method = METHOD if METHOD in scores.methods else scores.methods[0]
    ratio = min(scores.ratios, key=lambda ratio: abs(ratio - RATIO))
    parts = [
        *_head(scores),
        "## Accuracy against keep ratio\n\n" + _by_ratio(scores),
        f"## By kind of question, at keep ratio {ratio:g}\n\n" + _by_kind(scores, ratio),
        f"## {method} against the others, on the same questions, at keep ratio {ratio:g}\n\n"
        + _paired(scores, method, ratio),
    ]
    if follow_ups := [m for m in scores.methods if ALONE in m.split()]:
        parts += [_against_alone(scores, alone) for alone in follow_ups]
    if scores.shadow:
        parts.append("## First tokens against those of all tokens\n\n" + _first_tokens(scores))
    if scores.asks_yes_no:
        parts.append(f"## Yes or no, at keep ratio {ratio:g}\n\n" + _yes_no(scores, ratio))
    return "\n\n".join(parts) + "\n"


def ablation(scores: Scores, default: str) -> str:
    """Each method's accuracy at each ratio, with its paired difference to the method `default`."""
    base = scores.of_method(default)
    header = ["changed", *(f"{ratio:g}" for ratio in scores.ratios)]
    rows = [[default, *(_share(base[ratio]) for ratio in scores.ratios)]]
    for method in scores.methods:
        right = scores.of_method(method)
        if method != default:
            rows.append([method, *(_gap(right[ratio], base[ratio]) for ratio in scores.ratios)])
    return "\n\n".join([*_head(scores), markdown(header, rows)]) + "\n"


def plot(scores: Scores, path: Path) -> None:
    """Draw one line a method with 95 % intervals; all tokens are dashed, no picture is dotted."""
    with figure(path) as axes:
        for index, method in enumerate(scores.methods):
            points = sorted(scores.of_method(method).items())
            shares = [_share_of(right) for _, right in points]
            shift = 1 + 0.008 * (index - len(scores.methods) / 2)  # intervals beside each other
            axes.errorbar(
                [ratio * shift for ratio, _ in points],
                [s.value for s in shares],
                [[s.value - s.low for s in shares], [s.high - s.value for s in shares]],
                label=method,
                marker="o",
                markersize=4,
                linewidth=1.2,
                elinewidth=0.8,
            )
        axes.axhline(scores.whole.mean(), color="black", linestyle="--", label="all tokens")
        if scores.blind is not None:
            axes.axhline(scores.blind.mean(), color="black", linestyle=":", label="no picture")
        axes.set_xscale("log")
        axes.set_xticks(scores.ratios, [f"{ratio:g}" for ratio in scores.ratios])
        axes.minorticks_off()
        axes.set_xlabel("keep ratio")
        axes.set_ylabel(f"accuracy ({len(scores.whole)} questions)")
        axes.grid(alpha=0.3)


def _head(scores: Scores) -> list[str]:
    """What was measured, and the accuracy of all tokens."""
    whole = f"All tokens: {_share(scores.whole)} of {len(scores.whole)} questions."
    if scores.blind is not None:
        whole += f" Without the picture: {_share(scores.blind)}."
    return [bullets(scores.about), whole]


def _by_ratio(scores: Scores) -> str:
    header = ["method", *(f"{ratio:g}" for ratio in scores.ratios)]
    rows = []
    for method in scores.methods:
        of_method = scores.of_method(method)
        rows.append([method, *(_share(of_method[ratio]) for ratio in scores.ratios)])
    tokens = [["(mean prompt tokens)", *(_tokens(scores, ratio) for ratio in scores.ratios)]]
    return markdown(header, rows + tokens)


def _by_kind(scores: Scores, ratio: float) -> str:
    kinds, masks = _kinds(scores)
    rows = [["all tokens", *(f"{scores.whole[mask].mean():.3f}" for mask in masks)]]
    if scores.blind is not None:
        rows.append(["no picture", *(f"{scores.blind[mask].mean():.3f}" for mask in masks)])
    for method in scores.methods:
        right = scores.of_method(method)[ratio]
        rows.append([method, *(f"{right[mask].mean():.3f}" for mask in masks)])
    asked = ["(questions)", *(str(mask.sum()) for mask in masks)]
    return markdown(["method", *kinds], [*rows, asked])


def _kinds(scores: Scores) -> tuple[list[str], list[np.ndarray]]:
    """The kinds of questions, and a mask [n] of each."""
    kinds = list(dict.fromkeys(scores.kinds))
    return kinds, [np.array([kind == other for other in scores.kinds]) for kind in kinds]


def _against_alone(scores: Scores, alone: str) -> str:
    """How far each method's follow-ups are from the same questions asked alone, by kind."""
    kinds, masks = _kinds(scores)
    masks.append(np.ones(len(scores.kinds), dtype=bool))
    parts = [f"## Follow-ups against {alone}, on the same questions, by kind"]
    for ratio in scores.ratios:
        base = scores.of_method(alone)[ratio]
        rows = [[alone, *(_share(base[mask]) for mask in masks)]]
        pairs = {m: (scores.of_method(m)[ratio], base) for m in scores.methods if m != alone}
        if WHOLE_ALONE in scores.right:
            pairs |= {"all tokens, to all alone": (scores.whole, scores.right[WHOLE_ALONE])}
        for name, (right, other) in pairs.items():
            rows.append([name, *(_gap(right[mask], other[mask]) for mask in masks)])
        header = [f"keep ratio {ratio:g}", *kinds, "all"]
        rows.append(["(questions)", *(str(mask.sum()) for mask in masks)])
        parts.append(markdown(header, rows))
    return "\n\n".join(parts)


def _paired(scores: Scores, method: str, ratio: float) -> str:
    right = scores.of_method(method)[ratio]
    others = {"all tokens": scores.whole}
    others |= {m: scores.of_method(m)[ratio] for m in scores.methods if m != method}
    header = ["other", "difference (95 %)"]
    rows = [[name, _gap(right, other)] for name, other in others.items()]
    if right.dtype == bool:
        header.append("McNemar's p")
        rows = [[*row, f"{mcnemar(right, others[row[0]]):.2g}"] for row in rows]
    return markdown(header, rows)


def _yes_no(scores: Scores, ratio: float) -> str:
    """What POPE reports: yes to what is not there is a hallucination, and lowers the precision.

    An answer that is neither yes nor no counts as the wrong one of both.
    """
    asked = np.array([truth is not None for truth in scores.yes])
    truth = np.array([bool(truth) for truth in scores.yes])[asked]
    of_methods = {method: scores.of_method(method)[ratio] for method in scores.methods}
    rows = []
    for name, right in ({"all tokens": scores.whole} | of_methods).items():
        hit = right[asked] == 1
        said_yes = hit == truth
        true_yes = (said_yes & truth).sum()
        precision = true_yes / said_yes.sum() if said_yes.any() else np.nan
        recall = true_yes / truth.sum() if truth.any() else np.nan
        f1 = 2 * precision * recall / (precision + recall) if true_yes else np.nan
        values = (hit.mean(), precision, recall, f1, said_yes.mean())
        rows.append([name, *(f"{value:.3f}" for value in values)])
    header = ["method", "accuracy", "precision", "recall", "F1", "share of yes"]
    return markdown(
        header, [*rows, ["(questions)", str(asked.sum()), "", "", "", f"{truth.mean():.3f}"]]
    )


def _first_tokens(scores: Scores) -> str:
    """Mean total variation, and in brackets how often the likeliest token is the same."""
    header = ["method", *(f"{ratio:g}" for ratio in scores.ratios)]
    cells = {(s.method, s.keep_ratio): found for s, found in scores.shadow.items()}
    rows = []
    for method in scores.methods:
        found = [cells[method, ratio] for ratio in scores.ratios]
        rows.append([method, *(f"{f.distance:.3f} ({f.agreement:.3f})" for f in found)])
    if blind := scores.shadow.get(BLIND):
        text = f"{blind.distance:.3f} ({blind.agreement:.3f})"
        rows.append(["no picture", text, *[""] * (len(scores.ratios) - 1)])
    note = "Mean total variation, 0 equal, 1 disjoint; in brackets how often the likeliest one is "
    return f"{note}the same.\n\n" + markdown(header, rows)


def _tokens(scores: Scores, ratio: float) -> str:
    pruned = [n for s, n in scores.prompt_tokens.items() if s.mode and s.keep_ratio == ratio]
    return f"{np.mean(pruned):.0f} of {scores.prompt_tokens[WHOLE]:.0f}"


def _share(right: np.ndarray) -> str:
    return _share_of(right).shown(".3f", to="-")


def _share_of(right: np.ndarray) -> Interval:
    return share(right) if right.dtype == bool else mean(right)


def _gap(right: np.ndarray, other: np.ndarray) -> str:
    return _difference(right, other).shown("+.3f")


def _difference(right: np.ndarray, other: np.ndarray) -> Interval:
    return paired_difference(right, other) if right.dtype == bool else mean(right - other)
