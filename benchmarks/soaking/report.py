"""The report: the verdict, what was sent, what the memory did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..common import bullets, markdown
from .ledger import Ledger
from .samples import MIB
from .verdict import REASON, Check

MOST_ERRORS = 20


def report(
    about: Mapping[str, str],
    checks: Sequence[Check],
    ledger: Ledger,
    samples: Sequence[Mapping[str, Any]],
) -> str:
    """Markdown; `samples`: the lines of samples.jsonl."""
    failed = sum(not check.passed for check in checks)
    verdict = (
        f"**{failed} of {len(checks)} checks failed.**" if failed else "**All checks passed.**"
    )
    parts = ["# Soak", bullets(about), verdict]
    rows = [[c.name, "yes" if c.passed else "NO", c.found] for c in checks]
    parts.append("## Verdict\n\n" + markdown(["what must hold", "holds", "found"], rows))
    if ledger.errors:
        first = ledger.errors[:MOST_ERRORS]
        parts.append("## First errors\n\n" + "\n".join(f"- {error}" for error in first))
    parts.append("## Requests\n\n" + _requests(ledger))
    parts.append("## Over time\n\n" + _over_time(samples) + f"\n\n{REASON}")
    return "\n\n".join(parts) + "\n"


def _requests(ledger: Ledger) -> str:
    rows = []
    for kind in sorted({kind for kind, _ in ledger.statuses}):
        outcomes = sorted((s, n) for (k, s), n in ledger.statuses.items() if k == kind)
        sent = sum(number for _, number in outcomes)
        rows.append([kind, str(sent), ", ".join(f"{n} x {status}" for status, n in outcomes)])
    return markdown([f"{ledger.statuses.total()} requests", "sent", "outcomes"], rows)


def _over_time(samples: Sequence[Mapping[str, Any]]) -> str:
    """Ten lines of the samples."""
    step = max(1, len(samples) // 10)
    names = list(samples[-1]["cache_bytes"])
    header = ["s", "requests", "memory, MiB", "running", "waiting", "preemptions so far"]
    rows = [
        [
            f"{line['seconds']:.0f}",
            str(line["requests"]),
            f"{sum(line['memory_mib'].values()):.0f}",
            *(f"{line[name]:.0f}" for name in ("running", "waiting", "preemptions")),
            *(f"{line['cache_bytes'].get(name, 0) / MIB:.1f}" for name in names),
        ]
        for line in samples[step - 1 :: step]
    ]
    return markdown([*header, *(f"{name}, MiB" for name in names)], rows)
