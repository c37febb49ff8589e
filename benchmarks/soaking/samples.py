"""What a server says of itself while it is under load: /metrics."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families


class Scrape:
    """One look at /metrics."""

    def __init__(self, text: str) -> None:
        families = text_string_to_metric_families(text)
        self._samples = [sample for family in families for sample in family.samples]

    def sum(self, name: str, **labels: str) -> float:
        """Of the samples that have those labels; 0 where there are none."""
        return sum(
            sample.value
            for sample in self._samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def by(self, name: str, label: str) -> dict[str, float]:
        """Values by one label."""
        values: dict[str, float] = {}
        for sample in self._samples:
            if sample.name == name:
                key = sample.labels[label]
                values[key] = values.get(key, 0) + sample.value
        return values


def growth(before: Scrape, after: Scrape, name: str, **labels: str) -> int:
    """By how much a counter has grown."""
    return round(after.sum(name, **labels) - before.sum(name, **labels))
