"""Throughput and time to first token against concurrency, as PNGs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

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
    _draw(lines, folder / "throughput.png", "requests/s", _throughput)
    _draw(lines, folder / "ttft.png", "time to first token, s (p50, up to p90)", _ttft)


def _throughput(axes: Any, lines: Sequence[Line], color: Any) -> None:
    at_once = [line["concurrency"] for line in lines]
    values = [line["requests_per_s"] for line in lines]
    axes.plot(at_once, values, label=lines[0]["arm"], color=color, marker="o", markersize=4)


def _ttft(axes: Any, lines: Sequence[Line], color: Any) -> None:
    at_once = [line["concurrency"] for line in lines]
    middle = [line["ttft_ms"]["p50"] / 1000 for line in lines]
    above = [line["ttft_ms"]["p90"] / 1000 for line in lines]
    axes.plot(at_once, middle, label=lines[0]["arm"], color=color, marker="o", markersize=4)
    axes.fill_between(at_once, middle, above, color=color, alpha=0.15, linewidth=0)


def _draw(
    lines: Sequence[Line], path: Path, label: str, draw: Callable[[Any, Sequence[Line], Any], None]
) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    colors = pyplot.get_cmap("tab10").colors
    for index, arm in enumerate(dict.fromkeys(line["arm"] for line in lines)):
        mine = sorted((ln for ln in lines if ln["arm"] == arm), key=lambda ln: ln["concurrency"])
        draw(axes, mine, colors[index % len(colors)])
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
