"""What a server's log may not have in it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .balance import Check

DRIFT = "P0/P1 cache drift"
"""vLLM's warning where its image cache is not the same in two processes, see `asks_again`."""

_BAD = re.compile(r"Traceback|\bERROR\b|\bCRITICAL\b")
_STOCK = re.compile(r"Error with model error=.*code=404|failed with an internal error during gen")
"""What stock vLLM logs as errors: a model that a client got wrong, and a request failed for that
drift."""


def log_checks(log: str, resent: int) -> list[Check]:
    """No traceback and no error; `resent`: requests that vLLM asked for again."""
    drifts = log.count(DRIFT)
    bad = [line for line in log.splitlines() if _BAD.search(line) and not _STOCK.search(line)]
    return [
        Check("errors and tracebacks in the server's log", not bad, _first(bad)),
        Check(
            "requests sent again, and vLLM's warnings that its caches drifted",
            resent <= drifts,
            f"{resent} and {drifts}",
        ),
    ]


def _first(lines: Sequence[str]) -> str:
    return f"{len(lines)}" + (f", first: {lines[0][:300]}" if lines else "")
