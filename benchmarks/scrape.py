"""What a server says of itself at one moment: /metrics, in the Prometheus text format."""

from __future__ import annotations

import re
import urllib.request
from typing import NamedTuple

_SAMPLE = re.compile(r"^([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Sample(NamedTuple):
    """One line of /metrics."""

    name: str
    labels: dict[str, str]
    value: float


class Scrape:
    """One look at /metrics, without the buckets of histograms."""

    def __init__(self, text: str) -> None:
        found = (match.groups() for match in _SAMPLE.finditer(text))
        self.samples = [
            Sample(name, dict(_LABEL.findall(labels or "")), float(value))
            for name, labels, value in found
            if not name.endswith("_bucket")
        ]

    def sum(self, name: str, **labels: str) -> float:
        """Sum of the samples that have those labels; 0 where there are none."""
        return sum(
            s.value for s in self.samples if s.name == name and labels.items() <= s.labels.items()
        )

    def by(self, name: str, label: str) -> dict[str, float]:
        """Values by one label."""
        values: dict[str, float] = {}
        for sample in self.samples:
            if sample.name == name:
                key = sample.labels[label]
                values[key] = values.get(key, 0.0) + sample.value
        return values

    @property
    def totals(self) -> dict[str, float]:
        """Name -> value, summed over all labels."""
        values: dict[str, float] = {}
        for name, _, value in self.samples:
            values[name] = values.get(name, 0.0) + value
        return values


def fetch(root: str) -> Scrape:
    """Look at ROOT/metrics. The plugin asks its workers for it, between two of their steps."""
    with urllib.request.urlopen(f"{root}/metrics", timeout=300) as reply:
        return Scrape(reply.read().decode())
