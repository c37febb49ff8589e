"""What became of each part: kept in a file, so that nothing is run twice."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from ..common import read_lines, write_lines

PASSED, FAILED, NOT_RUN = "passed", "failed", "not run"


@dataclass(frozen=True)
class Outcome:
    """What became of one part."""

    part: str
    """Its name."""
    status: str
    """PASSED, FAILED or NOT_RUN."""
    found: str
    """What it found, or why it failed or was not run."""
    command: str = ""
    seconds: float = 0.0
    started: str = ""
    """Date and time."""
    log: str = ""
    """Name of the file that has all it printed."""
    end_of_log: str = ""
    """Its last lines, where it failed."""


class Outcomes:
    """The outcomes of a folder; of each part the newest."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._of = {line["part"]: Outcome(**line) for line in read_lines(path)}

    def of(self, part: str) -> Outcome:
        """The outcome of a part by its name."""
        return self._of.get(part) or Outcome(part, NOT_RUN, "it was not asked for")

    def add(self, outcome: Outcome) -> None:
        """Keep an outcome instead of an earlier one of the part, and write the file."""
        self._of[outcome.part] = outcome
        write_lines(self._path, map(asdict, self._of.values()))

    @property
    def started(self) -> str:
        """Date and time of the oldest one that was run."""
        return min(filter(None, (each.started for each in self._of.values())), default="")
