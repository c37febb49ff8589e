"""Throughput and time to first token against concurrency, as PNGs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from .results import Line, Results
from .tables import lengths


def plot(results: Results, folder: Path) -> None:
    """Draw the first kind of picture, a line an arm, into throughput.png and ttft.png."""
    lines = [
        ln for ln in results.lines if ln["concurrency"] and not ln["launch"] and not ln["again"]
    ]
    if not lines:
        return
    lines = [line for line in lines if line["picture"] == lines[0]["picture"]]
    _draw(lines, folder / "throughput.png", "requests/s", lambda ln: [ln["requests_per_s"]])
    _draw(lines, folder / "ttft.png", "time to first token, s (p50, up to p90)", _ttft)


def _ttft(line: Line) -> list[float]:
    """Median and 90th percentile of the time to first token, in seconds."""
    return [line["ttft_ms"][name] / 1000 for name in ("p50", "p90")]


def _draw(
    lines: Sequence[Line], path: Path, label: str, values: Callable[[Line], list[float]]
) -> None:
    """Draw a curve an arm; `values`: the curve's, and what the area above it reaches to."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    colors = matplotlib.color_sequences["tab10"]
    for index, arm in enumerate(dict.fromkeys(line["arm"] for line in lines)):
        mine = sorted((ln for ln in lines if ln["arm"] == arm), key=lambda ln: ln["concurrency"])
        at_once, color = [line["concurrency"] for line in mine], colors[index % len(colors)]
        middle, *above = zip(*map(values, mine), strict=True)
        axes.plot(at_once, middle, label=arm, color=color, marker="o", markersize=4)
        for edge in above:
            axes.fill_between(at_once, middle, edge, color=color, alpha=0.15, linewidth=0)
    ticks = sorted({line["concurrency"] for line in lines})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.set_xlabel("requests at a time")
    axes.set_ylabel(label)
    about = lines[-1]["about"]
    axes.set_title(
        f"{about['model']}, {lines[0]['picture']}, {lengths(about)}\n{about['machine']}", fontsize=9
    )
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
