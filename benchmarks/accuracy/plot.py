"""Accuracy against keep ratio, as a PNG."""

from __future__ import annotations

from pathlib import Path

from ..common import figure
from ..intervals import share
from .scores import Scores


def plot(scores: Scores, path: Path) -> None:
    """Draw one line a method with 95 % intervals; the dashed line is the accuracy of all tokens."""
    with figure(path) as axes:
        for index, method in enumerate(scores.methods):
            points = sorted(scores.of_method(method).items())
            shares = [share(right) for _, right in points]
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
        axes.set_xscale("log")
        axes.set_xticks(scores.ratios, [f"{ratio:g}" for ratio in scores.ratios])
        axes.minorticks_off()
        axes.set_xlabel("keep ratio")
        axes.set_ylabel(f"accuracy ({len(scores.whole)} questions)")
        axes.grid(alpha=0.3)
