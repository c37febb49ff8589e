"""What was found, as Markdown tables and as plots."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from ..common import bullets, figure, markdown
from ..intervals import PERCENTILES, paired_ratio
from .cells import STOCK
from .requests import size_of
from .results import Line, Results, throughput_ratio, ttft_ratio

POINTS = "/".join(f"p{p}" for p in PERCENTILES)
LATENCIES = {"ttft_ms": "TTFT", "tpot_ms": "TPOT", "e2e_ms": "E2E", "itl_ms": "ITL"}
"""Name in a line -> title in the report: times to first token, per output token of a request, from
end to end, and between one token and the next. Lines of 2026-11-24 have no ITL."""
NOTES = """\
Both servers are up; one is driven at a time, the arms in turns (A B B A ...), with {settle} s
between blocks, and {idle}. What is said in times is a geometric mean of paired ratios, in brackets
its 95 % interval where there are three pairs or more: of requests at concurrency 1, of blocks
elsewhere, and of blocks for requests/s. Most seen at once are requests in the engine, by two looks
a second. Every request has a picture or video that no server has seen. How right the answers are at
these keep ratios is measured by accuracy_bench.py; a speed without it is no result."""

FAMILY_NOTES = """\
{text_tokens} text tokens + picture or video in. Tokens and times: stock's and the other's. Ratios
are geometric means, in brackets their 95 % intervals: over pairs of requests where there is one at
a time, and of blocks elsewhere and for requests/s. Encoder and selection are parts of the plugin's
time; stock does not count them. How right answers are is measured by accuracy_bench.py; a speed
without it is no result."""


def report(results: Results, settle_seconds: float) -> str:
    """All tables of what was measured."""
    grid = [line for line in results.lines if not line["launch"] and not line["again"]]
    again = [line for line in results.lines if line["again"]]
    off = [line for line in results.lines if line["launch"]]
    about = results.lines[-1]["about"]
    parts = [bullets(about)]
    notes = NOTES.format(settle=settle_seconds, idle=_idle(results.lines))
    parts.append(textwrap.fill(notes, 100))
    for picture in dict.fromkeys(line["picture"] for line in grid):
        lines = [line for line in grid if line["picture"] == picture]
        title = f"{picture}, {lengths(about)}"
        parts.append(f"## Latency and throughput: {title}\n\n{_latency(results, lines)}")
        parts.append(f"## Tokens: {title}\n\n{_tokens(lines)}")
        parts.append(f"## Where the time to first token goes: {title}\n\n{_split(lines)}")
    for cell in dict.fromkeys(line["cell"] for line in again):
        parts.append(f"## {cell}: {lengths(about)}\n\n{_again(results.of(cell))}")
    if off:
        title = f"{off[0]['picture']}, {lengths(about)}, concurrency 1"
        parts.append(f"## Pruning switched off: {title}\n\n{_off(off)}")
    return "\n\n".join(parts) + "\n"


def family_report(results: Results) -> str:
    """The table of all families: stock against each way to prune."""
    head = ["family", "sent", "load", "pruned by", "visual tokens", "TTFT p50, ms"]
    head += ["TTFT to stock's", "requests/s to stock's", "encoder, selection, ms"]
    about = results.lines[-1]["about"]
    cells = dict.fromkeys(line["cell"] for line in results.lines)
    rows = []
    for cell in cells:
        stock, *others = results.of(cell)
        rows += [_family_row(stock, other) for other in others]
    table = markdown(head, rows)
    notes = textwrap.fill(FAMILY_NOTES.format(**about), 100)
    return f"{bullets(about)}\n\n{notes}\n\n{table}\n"


def _family_row(stock: Line, other: Line) -> list[str]:
    parts = [other["split_ms"][name] for name in ("encoder", "selection")]
    return [
        other["family"],
        f"{size_of(other['picture']).modality} {other['picture']}",
        load_of(other),
        f"{other['server']}, keep {other['keep_ratio']:g}",
        ", ".join(f"{line['visual_kv_tokens']:g}" for line in (stock, other)),
        ", ".join(f"{line['ttft_ms']['p50']:.0f}" for line in (stock, other)),
        ttft_ratio(other, stock).shown(".2f"),
        throughput_ratio(other, stock).shown(".2f"),
        ", ".join(f"{part:.0f}" for part in parts if part is not None),
    ]


def lengths(about: dict[str, object]) -> str:
    """What goes in and comes out of a request, for titles."""
    return f"{about['text_tokens']} text tokens + picture in, {about['output_tokens']} tokens out"


def load_of(line: Line) -> str:
    """How its requests came."""
    if line["concurrency"]:
        return f"{line['concurrency']} at a time"
    return f"{line['rate']:.2f} requests/s"


def _idle(lines: Sequence[Line]) -> str:
    used = [line["idle_cores"] for line in lines if line["idle_cores"] is not None]
    if not used:
        return "what the idle one used is not known, for it is not ours"
    return f"the idle one used at most {max(used):.2f} processor cores meanwhile"


def _latency(results: Results, lines: Sequence[Line]) -> str:
    times = {name: title for name, title in LATENCIES.items() if name in lines[0]}
    header = ["load", "arm", "requests", *(f"{title} {POINTS}, ms" for title in times.values())]
    header += ["requests/s", "most seen at once", "TTFT times shorter", "requests/s times stock's"]
    rows = []
    for line in lines:
        stock = _stock(results.of(line["cell"]))
        row = [load_of(line), line["arm"], _counts(line["requests"])]
        row += [_points(line[name]) for name in times]
        row += [f"{line['requests_per_s']:.3f}", str(line["peak_running"])]
        if line is stock:
            rows.append([*row, "", ""])
            continue
        ratios = ttft_ratio(stock, line), throughput_ratio(line, stock)
        rows.append([*row, *(ratio.shown(".2f") for ratio in ratios)])
    return markdown(header, rows)


def _tokens(lines: Sequence[Line]) -> str:
    """Token counts of each arm, from the first load, for no other changes them."""
    header = ["arm", "prompt tokens", "visual KV tokens a request", "fewer", "fit in the KV cache"]
    lines = [line for line in lines if line["cell"] == lines[0]["cell"]]
    stock, rows = _stock(lines), []
    for line in lines:
        capacity, needed = line["kv_cache_tokens"], line["prompt_tokens"]
        fit = f"{int(capacity / needed)} requests" if capacity else "not known"
        times = f"{stock['visual_kv_tokens'] / line['visual_kv_tokens']:.1f} times"
        visual = f"{line['visual_kv_tokens']:g}"
        rows.append([line["arm"], f"{needed:g}", visual, "" if line is stock else times, fit])
    return markdown(header, rows)


def _split(lines: Sequence[Line]) -> str:
    """Parts of the time to first token, from the first load, in which nobody waits for others."""
    lines = [line for line in lines if line["cell"] == lines[0]["cell"]]
    names = list(lines[0]["split_ms"])
    rows = []
    for line in lines:
        parts = line["split_ms"]
        total = sum(value or 0 for value in parts.values())
        cells = ["" if parts[n] is None else f"{parts[n]:.1f}" for n in names]
        share = "" if parts["selection"] is None else f"{100 * parts['selection'] / total:.1f} %"
        rows.append([line["arm"], *cells, f"{total:.1f}", share])
    table = markdown(["arm, mean ms", *names, "TTFT", "selection's share"], rows)
    return (
        f"{table}\n\n{load_of(lines[0]).capitalize()}. Preprocess is everything outside the "
        "engine: HTTP, decoding and resizing the picture, hashes, ways between processes. Encoder "
        "and selection are empty where the server does not count them (stock vLLM does not); they "
        "are in prefill then."
    )


def _again(lines: Sequence[Line]) -> str:
    """A first and a second question about each picture."""
    first, second = lines
    names = ("preprocess", "encoder", "selection")
    rows = [
        [line["arm"], _counts(line["requests"]), _points(line["ttft_ms"])]
        + [f"{line['spans_ms'][name]:.1f}" for name in names]
        for line in lines
    ]
    table = markdown(["arm", "requests", f"TTFT {POINTS}, ms", *(f"{n}, ms" for n in names)], rows)
    spent = first["spans_ms"]["preprocess"] + first["spans_ms"]["encoder"]
    ratio = ttft_ratio(first, second)
    saved = sum(_mean_ttft_ms(line) * sign for line, sign in ((first, 1), (second, -1)))
    return (
        f"{table}\n\nPreprocess is the image processor alone, here. The second question is "
        f"answered {saved:.0f} ms sooner, {100 * saved / spent:.0f} % of what preprocess and "
        f"encoder took for the first. TTFT times shorter: {ratio.shown('.2f')}."
    )


def _mean_ttft_ms(line: Line) -> float:
    values: list[float] = [value for block in line["blocks"] for value in block["ttft_s"]]
    return 1000 * sum(values) / len(values)


def _off(lines: Sequence[Line]) -> str:
    rows = []
    for arm in dict.fromkeys(line["arm"] for line in lines if line["arm"] != STOCK):
        mine = [line for line in lines if line["arm"] == arm]
        pairs = [
            (line, _stock([other for other in lines if other["cell"] == line["cell"]]))
            for line in mine
        ]
        ratio = ttft_ratio(*pairs[0])
        if len(pairs) > 1:  # what differs between servers for life, no number of requests averages
            ratios = [ttft_ratio(*pair).value for pair in pairs]
            ratio = paired_ratio(ratios, [1.0] * len(ratios))
        inside = "yes" if ratio.low <= 1 <= ratio.high else "no"
        each = ", ".join(f"{ttft_ratio(*pair).value:.3f}" for pair in pairs)
        requests = _counts([n for line in mine for n in line["requests"]])
        rows.append([arm, requests, ratio.shown(".4f"), inside, each])
    header = ["arm", "requests", "TTFT to stock's (95 %)", "contains 1", "launch by launch"]
    note = (
        "Each launch is a fresh pair of servers; the interval is over launches if there are more."
    )
    return f"{markdown(header, rows)}\n\n{note}"


def _stock(lines: Sequence[Line]) -> Line:
    (stock,) = (line for line in lines if line["arm"] == STOCK)
    return stock


def _counts(counts: Sequence[int]) -> str:
    return f"{len(counts)} x {counts[0]}" if len(set(counts)) == 1 else str(sum(counts))


def _points(values: dict[str, float]) -> str:
    return " / ".join(
        f"{value:.0f}" if value >= 100 else f"{value:.1f}" for value in values.values()
    )


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
