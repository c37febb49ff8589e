"""What was found, as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..common import bullets, markdown
from .results import Results
from .scoring import Difference, paired_difference, share
from .settings import WHOLE


def report(results: Results, method: str, ratio: float) -> str:
    """All tables; `method` at `ratio` is the one that is broken down and compared."""
    parts = [
        *_head(results),
        "## Accuracy against keep ratio\n\n" + _by_ratio(results),
        f"## By kind of question, at keep ratio {ratio:g}\n\n" + _by_kind(results, ratio),
        f"## {method} against the others, on the same questions, at keep ratio {ratio:g}\n\n"
        + _paired(results, method, ratio),
    ]
    return "\n\n".join(parts) + "\n"


def ablation(results: Results, default: str) -> str:
    """Each method's accuracy at each ratio, with its paired difference to the method `default`."""
    base = results.of_method(default)
    header = ["changed", *(f"{ratio:g}" for ratio in results.ratios)]
    rows = [[default, *(_interval(share(base[ratio])) for ratio in results.ratios)]]
    for method in results.methods:
        right = results.of_method(method)
        gaps = [paired_difference(right[ratio], base[ratio]) for ratio in results.ratios]
        if method != default:
            rows.append([method, *map(_gap, gaps)])
    return "\n\n".join([*_head(results), markdown(header, rows)]) + "\n"


def _head(results: Results) -> list[str]:
    """What was measured, and the accuracy of all tokens."""
    whole = f"All tokens: {_interval(share(results.whole))} of {len(results.whole)} questions."
    return [bullets(results.about), whole]


def _by_ratio(results: Results) -> str:
    header = ["method", *(f"{ratio:g}" for ratio in results.ratios)]
    rows = []
    for method in results.methods:
        of_method = results.of_method(method)
        rows.append([method, *(_interval(share(of_method[ratio])) for ratio in results.ratios)])
    tokens = [["(mean prompt tokens)", *(_tokens(results, ratio) for ratio in results.ratios)]]
    return markdown(header, rows + tokens)


def _by_kind(results: Results, ratio: float) -> str:
    kinds = list(dict.fromkeys(results.kinds))
    masks = [np.array([kind == other for other in results.kinds]) for kind in kinds]
    rows = [["all tokens", *(f"{results.whole[mask].mean():.3f}" for mask in masks)]]
    for method in results.methods:
        right = results.of_method(method)[ratio]
        rows.append([method, *(f"{right[mask].mean():.3f}" for mask in masks)])
    asked = ["(questions)", *(str(mask.sum()) for mask in masks)]
    return markdown(["method", *kinds], [*rows, asked])


def _paired(results: Results, method: str, ratio: float) -> str:
    right = results.of_method(method)[ratio]
    others = {"all tokens": results.whole}
    others |= {m: results.of_method(m)[ratio] for m in results.methods if m != method}
    rows = []
    for name, other in others.items():
        gap = paired_difference(right, other)
        rows.append([name, _gap(gap), f"{gap.p:.2g}"])
    return markdown(["other", "difference (95 %)", "McNemar's p"], rows)


def _tokens(results: Results, ratio: float) -> str:
    pruned = [n for s, n in results.prompt_tokens.items() if s != WHOLE and s.keep_ratio == ratio]
    return f"{np.mean(pruned):.0f} of {results.prompt_tokens[WHOLE]:.0f}"


def _gap(gap: Difference) -> str:
    return f"{gap.value:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})"


def _interval(value: Sequence[float]) -> str:
    mean, low, high = value
    return f"{mean:.3f} ({low:.3f}-{high:.3f})"
