"""What a server says of itself at one moment: /metrics, in the Prometheus text format."""

from __future__ import annotations

import urllib.request
from collections import defaultdict

from prometheus_client.parser import text_string_to_metric_families


class Scrape:
    """One look at /metrics, without the buckets of histograms."""

    def __init__(self, text: str) -> None:
        families = text_string_to_metric_families(text)
        samples = [sample for family in families for sample in family.samples]
        self.samples = [sample for sample in samples if not sample.name.endswith("_bucket")]

    def sum(self, name: str, **labels: str) -> float:
        """Sum of the samples that have those labels; 0 where there are none."""
        return sum(
            s.value for s in self.samples if s.name == name and labels.items() <= s.labels.items()
        )

    def by(self, name: str, label: str) -> dict[str, float]:
        """Values by one label."""
        values: dict[str, float] = defaultdict(float)
        for sample in self.samples:
            if sample.name == name:
                values[sample.labels[label]] += sample.value
        return dict(values)

    @property
    def totals(self) -> dict[str, float]:
        """Name -> value, summed over all labels."""
        values: dict[str, float] = defaultdict(float)
        for sample in self.samples:
            values[sample.name] += sample.value
        return dict(values)


def fetch(root: str) -> Scrape:
    """Look at ROOT/metrics. The plugin asks its workers for it, between two of their steps."""
    with urllib.request.urlopen(f"{root}/metrics", timeout=300) as reply:
        return Scrape(reply.read().decode())
