"""What was found, as tables, as lines of figures, and as a plot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..common import bullets, figure, markdown
from ..intervals import Interval
from .measures import ALONE, NO_QUERY
from .relevance import MASK, TEXT, WRONG_SIGN
from .results import DISTANCE, MEASURES, OBJECT_SHARE, OBJECTS_HIT, SEGMENTS_HIT, Method, Results
from .truth import SIZES

CLOSE_UP = ("0.11", "0.056")
"""Keep ratios that are compared pair by pair, where they were measured."""
CATEGORIES = 12


class Table(NamedTuple):
    """A table of figures."""

    title: str
    corner: str
    rows: Mapping[str, Mapping[str, Interval]]
    """Row -> column -> figure."""
    form: str = ".3f"
    to: str = "-"
    """What stands between the bounds of an interval."""

    def text(self) -> str:
        """The table in Markdown, under its title."""
        columns = list(next(iter(self.rows.values())))
        rows = [
            [name, *(own[column].shown(self.form, self.to) for column in columns)]
            for name, own in self.rows.items()
        ]
        return f"## {self.title}\n\n{markdown([self.corner, *columns], rows)}"

    def lines(self) -> list[dict[str, Any]]:
        """One line of JSON for each figure; bounds that nobody knows are left out."""
        return [
            {"table": self.title, "row": row, "column": column, "value": round(own.value, 5)}
            | ({"low": round(own.low, 5), "high": round(own.high, 5)} if own.low == own.low else {})
            for row, columns in self.rows.items()
            for column, own in columns.items()
        ]


def tables(results: Results) -> list[Table]:
    """All tables."""
    methods, ratios = results.methods, results.ratios
    found = [
        Table(
            measure.title,
            "keep ratio",
            {
                str(m): {ratio: results.value(measure, m, ratio) for ratio in ratios}
                for m in methods
            },
            form=".4f" if measure is DISTANCE else ".3f",
        )
        for measure in MEASURES
    ]
    close_up = [ratio for ratio in CLOSE_UP if ratio in ratios] or ratios[-1:]
    found += [_by_size(results, ratio) for ratio in close_up]
    found += [_paired(results, ratio) for ratio in close_up]
    return [*found, _features(results), _auroc(results), *_pool(results)]


def report(about: Mapping[str, Any], found: list[Table]) -> str:
    """What was measured, and all tables."""
    return "\n\n".join([bullets(about), *(table.text() for table in found)]) + "\n"


def plot(results: Results, path: Path) -> None:
    """Draw the share of the asked-for object against the keep ratio, one line a method."""
    source = main_source(results)
    with figure(path) as axes:
        for method in results.methods:
            reads_none = len(results.asked[0]["kept"][method.mode]) == 1
            if method.source != (NO_QUERY if reads_none else source):
                continue
            points = [(float(r), results.value(OBJECT_SHARE, method, r)) for r in results.ratios]
            axes.errorbar(
                [ratio for ratio, _ in points],
                [own.value for _, own in points],
                [[p.value - p.low for _, p in points], [p.high - p.value for _, p in points]],
                label=str(method),
                marker="o",
                markersize=4,
                linewidth=1.2,
                elinewidth=0.8,
            )
        axes.set_xscale("log")
        axes.set_xticks([float(ratio) for ratio in results.ratios], results.ratios)
        axes.minorticks_off()
        axes.set_xlabel("keep ratio")
        axes.set_ylabel(OBJECT_SHARE.title)
        axes.grid(alpha=0.3)


def main_source(results: Results) -> str:
    """The relevance that is most like a real one: of text, or else the mask with most noise."""
    return TEXT if TEXT in results.sources else results.sources[-1]


def _by_size(results: Results, ratio: str) -> Table:
    """Objects and segments by size; sizes are shares of the photograph's tokens."""
    measures = {"share": OBJECT_SHARE, "objects hit": OBJECTS_HIT, "segments hit": SEGMENTS_HIT}
    rows = {
        str(method): {
            f"{size}, {name}": results.value(measure, method, ratio, size)
            for name, measure in measures.items()
            for size in SIZES
        }
        for method in results.methods
    }
    return Table(f"By size, at keep ratio {ratio}", "method", rows)


def _paired(results: Results, ratio: str) -> Table:
    """What one method has more than another, of pairs that say something."""
    sources = results.sources
    pairs = [
        (Method(one, source), Method(other, source))
        for source in sources
        for one, other in (
            *(("script", "cdpruner"), ("script", ALONE), ("coverage", "script")),
            *(("coverage", "cdpruner"), ("mmr", "cdpruner")),
            *((f"{mode} centered", mode) for mode in ("script", "cdpruner", "coverage", "mmr")),
            *((f"{mode} centered", "coverage centered") for mode in ("script", "cdpruner", "mmr")),
        )
    ]
    source = main_source(results)
    pairs += [
        (Method("script", source), Method(m, NO_QUERY)) for m in ("uniform", "divprune", "gsp")
    ]
    if WRONG_SIGN in sources:
        pairs += [(Method(m, TEXT), Method(m, WRONG_SIGN)) for m in ("script", "cdpruner")]
    pairs += [
        (Method(one, NO_QUERY), Method(other, NO_QUERY))
        for one, other in (
            *(("gsp", "uniform"), ("gsp", "divprune"), ("coverage", "gsp")),
            *(("coverage", "divprune"), ("coverage", "uniform")),
            *((f"{mode} centered", mode) for mode in ("divprune", "coverage")),
        )
    ]
    names = ("share", "objects hit", "segments hit", "distance")
    rows = {
        f"{method} - {other}": {
            name: results.difference(measure, method, other, ratio)
            for name, measure in zip(names, MEASURES, strict=True)
        }
        for method, other in pairs
    }
    return Table(f"Differences, at keep ratio {ratio}", "methods", rows, form="+.3f", to=" to ")


def _features(results: Results) -> Table:
    rows = {
        "cosine of two tokens of a photograph": results.mean("cosine"),
        "share of pairs at least tau above the mean": results.mean("neighbours"),
    }
    return Table(
        "How alike tokens are", "over photographs", {name: {"mean": r} for name, r in rows.items()}
    )


def _auroc(results: Results) -> Table:
    sources = [source for source in results.sources if source != MASK]
    kinds = {"things": True, "stuff": False}
    rows = {s: {kind: results.auroc(s, own) for kind, own in kinds.items()} for s in sources}
    return Table("AUROC of relevance inside what is asked for", "relevance", rows)


def _pool(results: Results) -> list[Table]:
    """What is not in the pool that GSP leaves to QCSP."""
    by_kind = {
        f"{size} {kind} ({results.num_segments(things, size)})": results.pool(things, size)
        for kind, things in (("things", True), ("stuff", False))
        for size in SIZES
    }
    gone = {"all": results.objects_gone()} | {size: results.objects_gone(size) for size in SIZES}
    names = list(results.categories(CATEGORIES))
    return [
        Table("GSP's pool: what it removes", "segments", by_kind),
        Table("Askable things with no token in GSP's pool", "", {"share": gone}),
        Table(
            "Share of a category's tokens that GSP's pool lacks",
            "most tokens first",
            {name: {"removed": own} for name, own in names},
        ),
    ]
