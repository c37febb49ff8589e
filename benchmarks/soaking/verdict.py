"""Whether a server's memory grew and its log complained; the sums are in balance.py.

Memory grows if the median of the last third of the run is above that of the second.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

MOST_GROWTH = 0.01
"""Largest growth of memory that passes, as a part of the second third's median."""
RETURN_FREED = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "131072",
    "MALLOC_TRIM_THRESHOLD_": "131072",
}
"""Environment in which glibc returns what is freed. By itself it keeps it in one arena a thread,
whose sizes go up in steps of 20 MiB for as long as ever more requests happen to meet."""
REASON = """\
Memory is anonymous and shared pages of all server processes, without mapped files. The first third
is warm-up: caches fill, allocators find their size. What differs between the medians of the others
is a leak, or what allocators keep for later; glibc is told to keep little. The bound is 1 %: small
leaks are above it, ten KiB of every request, or one picture in thirty."""
SHORTEST = 10
"""Minutes; a shorter run is all warm-up, and nothing is said about its memory."""

DRIFT = "P0/P1 cache drift"
"""vLLM's warning where its image cache is not the same in two processes, see `asks_again`."""

_BAD = re.compile(r"Traceback|\bERROR\b|\bCRITICAL\b")
_STOCK = re.compile(r"Error with model error=.*code=404|failed with an internal error during gen")
"""What stock vLLM logs as errors: a model that a client got wrong, and a request failed for that
drift."""


@dataclass(frozen=True)
class Check:
    """One thing that must hold."""

    name: str
    passed: bool
    found: str
    """What was found, for a reader."""


def growth_check(samples: Sequence[Mapping[str, Any]]) -> Check:
    """The last third's median memory is no more than the second's, but for `MOST_GROWTH`.

    Args:
        samples: lines of samples.jsonl, taken at equal times.
    """
    third = len(samples) // 3
    parts = samples[third : 2 * third], samples[2 * third :]
    second, last = (median(sum(line["memory_mib"].values()) for line in part) for part in parts)
    requests = [median(line["requests"] for line in part) for part in parts]
    kib_a_request = 1024 * (last - second) / max(1, requests[1] - requests[0])
    return Check(
        f"memory of the last third is at most {MOST_GROWTH:.0%} above the second's",
        last <= second * (1 + MOST_GROWTH),
        f"{second:.1f} MiB, then {last:.1f} MiB: {last / second - 1:+.2%}, "
        f"{kib_a_request:+.2f} KiB a request",
    )


def log_checks(log: str, resent: int) -> list[Check]:
    """No traceback and no error; `resent`: requests that vLLM asked for again."""
    drifts, bad = log.count(DRIFT), bad_lines(log)
    first = f"{len(bad)}" + (f", first: {bad[0][:300]}" if bad else "")
    return [
        Check("errors and tracebacks in the server's log", not bad, first),
        Check(
            "requests sent again, and vLLM's warnings that its caches drifted",
            resent <= drifts,
            f"{resent} and {drifts}",
        ),
    ]


def bad_lines(log: str) -> list[str]:
    """Lines of a server's log that are errors or begin a traceback, and no client's doing."""
    return [line for line in log.splitlines() if _BAD.search(line) and not _STOCK.search(line)]
