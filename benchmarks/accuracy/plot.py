"""Accuracy against keep ratio, as a PNG."""

from __future__ import annotations

from pathlib import Path

from ..intervals import share
from .scores import Scores


def plot(scores: Scores, path: Path) -> None:
    """Draw one line a method with 95 % intervals; the dashed line is the accuracy of all tokens."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    colors = matplotlib.color_sequences["tab10"]
    for index, method in enumerate(scores.methods):
        points = scores.of_method(method)
        ratios = sorted(points)
        shares = [share(points[ratio]) for ratio in ratios]
        reach = [[s.value - s.low for s in shares], [s.high - s.value for s in shares]]
        shift = 1 + 0.008 * (index - len(scores.methods) / 2)  # intervals beside each other
        axes.errorbar(
            [ratio * shift for ratio in ratios],
            [s.value for s in shares],
            reach,
            label=method,
            color=colors[index % len(colors)],
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
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
