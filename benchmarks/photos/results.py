"""From the lines of all photographs to figures: means over objects or segments, with intervals.

Photographs are the groups that intervals are bootstrapped over: the objects of one, and what is
asked about it, are not independent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..intervals import Interval, ratio_of_sums
from .measures import NO_QUERY
from .truth import SIZES

Line = Mapping[str, Any]


class Method(NamedTuple):
    """A way to select: a mode, and the relevance that it reads."""

    mode: str
    source: str

    def __str__(self) -> str:
        return ", ".join(filter(None, self))


class Measure(NamedTuple):
    """What a selection is judged by."""

    title: str
    adds: Callable[[Line, str | None, Sequence[Sequence[float]]], tuple[float, float]]
    """A photograph, a size class or None, and what was kept for each object asked for -> what the
    photograph adds to the sum of the measure, and to what it is divided by."""


def _things(line: Line, size: str | None) -> list[tuple[int, Mapping[str, Any]]]:
    """The objects asked for, with their places."""
    things = [each for each in line["objects"] if each["thing"]]
    return [(i, each) for i, each in enumerate(things) if size in (None, each["size"])]


def _object_share(
    line: Line, size: str | None, kept: Sequence[Sequence[float]]
) -> tuple[float, float]:
    own = _things(line, size)
    return sum(kept[i][0] / each["tokens"] for i, each in own), len(own)


def _objects_hit(
    line: Line, size: str | None, kept: Sequence[Sequence[float]]
) -> tuple[float, float]:
    own = _things(line, size)
    return sum(kept[i][0] > 0 for i, _ in own), len(own)


def _segments_hit(
    line: Line, size: str | None, kept: Sequence[Sequence[float]]
) -> tuple[float, float]:
    if not line["panoptic"]:
        return 0, 0
    of_size = [place for place, name in enumerate(SIZES) if size in (None, name)]
    total = sum(size in (None, each["size"]) for each in line["segments"])
    return sum(own[2 + place] for own in kept for place in of_size), len(kept) * total


def _distance(line: Line, size: str | None, kept: Sequence[Sequence[float]]) -> tuple[float, float]:
    return sum(own[1] for own in kept), len(kept)


OBJECT_SHARE = Measure("Share of the asked-for object's tokens that is kept", _object_share)
OBJECTS_HIT = Measure("Asked-for objects with at least one token kept", _objects_hit)
SEGMENTS_HIT = Measure("Panoptic segments with at least one token kept", _segments_hit)
DISTANCE = Measure("Distance (1 - cosine) of a dropped token to its nearest kept one", _distance)
MEASURES = (OBJECT_SHARE, OBJECTS_HIT, SEGMENTS_HIT, DISTANCE)


@dataclass(frozen=True)
class Results:
    """The lines of a run."""

    lines: Sequence[Line]

    @property
    def asked(self) -> list[Line]:
        """Photographs with something to ask for."""
        return [line for line in self.lines if line["kept"]]

    @property
    def methods(self) -> list[Method]:
        """All ways to select, those without a query first."""
        kept = self.asked[0]["kept"]
        found = [Method(mode, source) for mode, own in kept.items() for source in own]
        return sorted(found, key=lambda method: method.source != NO_QUERY)

    @property
    def sources(self) -> list[str]:
        """Where relevance comes from, in their order."""
        return [source for source in self.asked[0]["kept"]["script"] if source != NO_QUERY]

    @property
    def ratios(self) -> list[str]:
        """Keep ratios, descending, as they are written in the lines."""
        kept = self.asked[0]["kept"]
        return sorted(next(iter(next(iter(kept.values())).values())), key=float, reverse=True)

    def value(
        self, measure: Measure, method: Method, ratio: str, size: str | None = None
    ) -> Interval:
        """One measure of one method."""
        return ratio_of_sums(*zip(*self._counts(measure, method, ratio, size), strict=True))

    def difference(
        self, measure: Measure, method: Method, other: Method, ratio: str, size: str | None = None
    ) -> Interval:
        """What a method has more than another, photograph by photograph."""
        pairs = zip(
            self._counts(measure, method, ratio, size),
            self._counts(measure, other, ratio, size),
            strict=True,
        )
        added = [(own - others, count) for (own, count), (others, _) in pairs]
        return ratio_of_sums(*zip(*added, strict=True))

    def auroc(self, source: str, things: bool) -> Interval:
        """Mean over objects of the AUROC of a relevance inside the object."""
        values = [
            [each["auroc"][source] for each in line["objects"] if each["thing"] == things]
            for line in self.lines
        ]
        return ratio_of_sums([sum(own) for own in values], [len(own) for own in values])

    def mean(self, key: str) -> Interval:
        """Mean over photographs of one of their values."""
        return ratio_of_sums([line[key] for line in self.lines], [1] * len(self.lines))

    def num_segments(self, things: bool, size: str) -> int:
        """Segments of one kind and size, where stuff is marked too."""
        lines = [line for line in self.lines if line["panoptic"]]
        return sum(
            s["thing"] == things and s["size"] == size for line in lines for s in line["segments"]
        )

    def pool(self, things: bool, size: str) -> dict[str, Interval]:
        """Of segments of one kind and size: tokens that GSP's pool lacks, and whole segments."""
        lines = [line for line in self.lines if line["panoptic"]]
        own = [
            [s for s in line["segments"] if s["thing"] == things and s["size"] == size]
            for line in lines
        ]
        removed = [sum(s["tokens"] - s["in_pool"] for s in segments) for segments in own]
        gone = [sum(s["in_pool"] == 0 for s in segments) for segments in own]
        return {
            "tokens removed": ratio_of_sums(
                removed, [sum(s["tokens"] for s in segments) for segments in own]
            ),
            "segments without a token": ratio_of_sums(gone, [len(s) for s in own]),
        }

    def objects_gone(self, size: str | None = None) -> Interval:
        """Share of the askable things of which GSP's pool has no token."""
        own = [[each for _, each in _things(line, size)] for line in self.lines]
        return ratio_of_sums(
            [sum(each["in_pool"] == 0 for each in things) for things in own],
            [len(things) for things in own],
        )

    def categories(self, most: int) -> Iterator[tuple[str, Interval]]:
        """The categories with the most tokens, and which share of these GSP's pool lacks."""
        counts: dict[str, list[tuple[int, int]]] = {}
        for line in self.lines:
            if line["panoptic"]:
                for each in line["segments"]:
                    removed = each["tokens"] - each["in_pool"]
                    counts.setdefault(each["category"], []).append((removed, each["tokens"]))
        by_tokens = sorted(counts.items(), key=lambda item: -sum(n for _, n in item[1]))
        for name, own in by_tokens[:most]:
            yield name, ratio_of_sums(*zip(*own, strict=True))

    def _counts(
        self, measure: Measure, method: Method, ratio: str, size: str | None
    ) -> list[tuple[float, float]]:
        return [
            measure.adds(line, size, line["kept"][method.mode][method.source][ratio])
            for line in self.asked
        ]
