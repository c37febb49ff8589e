"""What was found, as Markdown tables."""

from __future__ import annotations

import numpy as np

from ..common import bullets, markdown
from ..intervals import mcnemar, paired_difference, share
from .results import Results
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
    rows = [[default, *(_share(base[ratio]) for ratio in results.ratios)]]
    for method in results.methods:
        right = results.of_method(method)
        if method != default:
            rows.append([method, *(_gap(right[ratio], base[ratio]) for ratio in results.ratios)])
    return "\n\n".join([*_head(results), markdown(header, rows)]) + "\n"


def _head(results: Results) -> list[str]:
    """What was measured, and the accuracy of all tokens."""
    whole = f"All tokens: {_share(results.whole)} of {len(results.whole)} questions."
    return [bullets(results.about), whole]


def _by_ratio(results: Results) -> str:
    header = ["method", *(f"{ratio:g}" for ratio in results.ratios)]
    rows = []
    for method in results.methods:
        of_method = results.of_method(method)
        rows.append([method, *(_share(of_method[ratio]) for ratio in results.ratios)])
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
    rows = [[n, _gap(right, o), f"{mcnemar(right, o):.2g}"] for n, o in others.items()]
    return markdown(["other", "difference (95 %)", "McNemar's p"], rows)


def _tokens(results: Results, ratio: float) -> str:
    pruned = [n for s, n in results.prompt_tokens.items() if s != WHOLE and s.keep_ratio == ratio]
    return f"{np.mean(pruned):.0f} of {results.prompt_tokens[WHOLE]:.0f}"


def _share(right: np.ndarray) -> str:
    return share(right).shown(".3f", to="-")


def _gap(right: np.ndarray, other: np.ndarray) -> str:
    return paired_difference(right, other).shown("+.3f")
