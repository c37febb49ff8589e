"""Throughput and time to first token against concurrency, as PNGs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ..common import figure
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
    about = lines[-1]["about"]
    title = f"{about['model']}, {lines[0]['picture']}, {lengths(about)}\n{about['machine']}"
    ticks = sorted({line["concurrency"] for line in lines})
    with figure(path) as axes:
        for arm in dict.fromkeys(line["arm"] for line in lines):
            mine = sorted((x for x in lines if x["arm"] == arm), key=lambda x: x["concurrency"])
            at_once = [line["concurrency"] for line in mine]
            middle, *above = zip(*map(values, mine), strict=True)
            (curve,) = axes.plot(at_once, middle, label=arm, marker="o", markersize=4)
            for edge in above:
                color = curve.get_color()
                axes.fill_between(at_once, middle, edge, color=color, alpha=0.15, linewidth=0)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.set_xlabel("requests at a time")
        axes.set_ylabel(label)
        axes.set_title(title, fontsize=9)
        axes.grid(alpha=0.3, which="both")
