"""From the lines of all photographs to tables: each cut's scores side by side, and less the first.

Intervals are bootstrapped over photographs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..intervals import Interval, ratio_of_sums
from ..photos.report import Table
from ..photos.results import DISTANCE, OBJECT_SHARE, OBJECTS_HIT, SEGMENTS_HIT, Measure
from .measures import SURVIVORS, WHOLE

Line = Mapping[str, Any]
FIDELITY = ("cosine", "centered", "distance of a dropped patch", "distance, centered")
"""The values of a line's `fidelity`, in their order."""
AT_BEST = (1.0, 1.0, 0.0, 0.0)
"""Those of the whole tower."""


class Column(NamedTuple):
    """What a score is judged by."""

    title: str
    measure: Measure | int
    """One of the selections, or the place of a value of the fidelity."""
    ratio: str = SURVIVORS
    """Keep ratio of the selection."""

    def adds(self, line: Line, score: str, cut: str) -> tuple[float, float]:
        """What a photograph adds to the sum, and to what it is divided by."""
        if isinstance(self.measure, int):
            own = AT_BEST if score == WHOLE else line["fidelity"][score][cut]
            return own[self.measure], 1
        kept = line["kept"][score]
        return self.measure.adds(line, None, (kept if score == WHOLE else kept[cut])[self.ratio])


def columns_of(ratios: Sequence[str]) -> list[Column]:
    """All columns, where `script` has selected at these keep ratios."""
    return [
        *(Column(title, place) for place, title in enumerate(FIDELITY)),
        Column("objects with a survivor", OBJECTS_HIT),
        Column("segments with a survivor", SEGMENTS_HIT),
        *(
            Column(f"{title}, {ratio}", measure, ratio)
            for ratio in ratios
            for title, measure in (
                ("objects hit", OBJECTS_HIT),
                ("share of the object", OBJECT_SHARE),
                ("segments hit", SEGMENTS_HIT),
                ("distance", DISTANCE),
            )
        ),
    ]


def tables(lines: Sequence[Line]) -> list[Table]:
    """Of each cut all scores, and their differences to the first, photograph by photograph."""
    scores = list(lines[0]["fidelity"])
    base, *others = scores
    columns = columns_of([ratio for ratio in lines[0]["kept"][WHOLE] if ratio != SURVIVORS])
    found = []
    for cut in lines[0]["fidelity"][base]:
        values = {
            score: {each.title: _value(lines, each, score, cut) for each in columns}
            for score in (WHOLE, *scores)
        }
        found.append(Table(f"Keep {cut}", "score", values, to=" to "))
        gaps = {
            f"{score} - {base}": {
                each.title: _difference(lines, each, (score, base), cut) for each in columns
            }
            for score in others
        }
        if gaps:
            found.append(Table(f"Keep {cut}, less {base}", "scores", gaps, "+.4f", " to "))
    return found


def _value(lines: Sequence[Line], column: Column, score: str, cut: str) -> Interval:
    """A value of one score; without an interval, for scores are compared by their differences."""
    added = [column.adds(line, score, cut) for line in lines]
    return ratio_of_sums(*zip(*added, strict=True))._replace(low=float("nan"), high=float("nan"))


def _difference(
    lines: Sequence[Line], column: Column, scores: tuple[str, str], cut: str
) -> Interval:
    """What one score has more than the other."""
    pairs = [[column.adds(line, score, cut) for score in scores] for line in lines]
    return ratio_of_sums(*zip(*((a - b, count) for (a, count), (b, _) in pairs), strict=True))
