"""Run parts one after the other, keep what becomes of each, and write the report after each."""

from __future__ import annotations

import datetime
import shlex
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from ..common import markdown
from .goals import MISSED, Goal, goals
from .machine import Machine
from .outcomes import FAILED, NOT_RUN, PASSED, Outcome, Outcomes
from .parts import Part
from .progress import Progress, clock, last_lines
from .report import write_report
from .running import run

ENVIRONMENT = {"PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
"""Of all parts: nothing is asked of the network."""
SHOWN_LINES = 30
"""Of the log of a part that failed, in the report."""


class Session:
    """Parts on a machine, and what becomes of them.

    Args:
        root: the checkout, in which commands are run.
        out: folder of all results. Those of this machine are in a folder of it, the report in
            another.
        parts: all there are.
        command: of this run, for the report.
    """

    def __init__(
        self, machine: Machine, root: Path, out: Path, parts: Sequence[Part], command: str
    ) -> None:
        self._machine, self._root, self._parts, self._command = machine, root, parts, command
        self._out, self._folder = out, out / machine.key
        self._logs = self._folder / "logs"
        self._logs.mkdir(parents=True, exist_ok=True)
        self._outcomes = Outcomes(self._folder / "outcomes.jsonl")

    def run(self, only: Collection[str], again: Collection[str]) -> bool:
        """Run parts, and write the report.

        Args:
            only: names of those that are run unless they have passed before.
            again: names of those that are run though they have.

        Returns:
            whether none of them failed, and no goal is missed.
        """
        chosen = [part for part in self._parts if part.name in {*only, *again}]
        print(f"{self._machine.gpu}: {len(chosen)} parts, logs in {self._logs}", flush=True)
        for number, part in enumerate(chosen, start=1):
            label = f"[{number}/{len(chosen)}] {part.name}"
            before = self._outcomes.of(part.name)
            if before.status == PASSED and part.name not in again:
                print(f"{label}: passed on {before.started}: {before.found}", flush=True)
                continue
            if part.name in again:
                part.forget()
            self._outcomes.add(self._run(part, label))
            self._write()
        into, found = self._write()
        table = markdown(
            ["goal", "figure", "verdict"], [[g.name, g.figure, g.verdict] for g in found]
        )
        print(f"\n{table}\n\nwritten to {into}, to be committed in benchmarks/results")
        failed = any(self._outcomes.of(part.name).status == FAILED for part in chosen)
        return not failed and all(goal.verdict != MISSED for goal in found)

    def _run(self, part: Part, label: str) -> Outcome:
        if why := part.missing(self._machine):
            print(f"{label}: not run: {why}", flush=True)
            return Outcome(part.name, NOT_RUN, why)
        log = self._logs / f"{part.name}.log"
        progress = Progress(label, part.limit, log)
        shown = shlex.join(["python", *part.arguments])
        print(f"{label}: {part.title}\n    {shown}\n    log: {log}", flush=True)
        now, started = datetime.datetime.now(), time.monotonic()
        exited = run(
            part.command, log, limit=part.limit, cwd=self._root, env=ENVIRONMENT, look=progress
        )
        seconds = time.monotonic() - started
        status, found = _judged(part, exited)
        progress.end(f"{status} after {clock(seconds)}: {found}")
        return Outcome(
            part.name,
            status,
            found,
            shown,
            round(seconds, 1),
            f"{now:%Y-%m-%d %H:%M}",
            log.name,
            "\n".join(last_lines(log, SHOWN_LINES)) if status == FAILED else "",
        )

    def _write(self) -> tuple[Path, list[Goal]]:
        """Write the report; returns its folder and the goals."""
        found = goals(self._outcomes, self._folder, [part.name for part in self._parts])
        day = self._outcomes.started[:10] or f"{datetime.date.today()}"
        into = self._out / f"{day}-gpu-{self._machine.slug}"
        write_report(
            into, self._folder, self._machine, self._command, self._parts, self._outcomes, found
        )
        return into, found


def _judged(part: Part, exited: int | None) -> tuple[str, str]:
    """Status of a part that has ended, and what it found or why it failed.

    Args:
        exited: its exit status, None where it was stopped at its limit.
    """
    if exited is None:
        return FAILED, f"stopped after {clock(part.limit)}, the most that a part may take"
    try:
        found = part.found()
    except (ValueError, KeyError, OSError) as error:
        return FAILED, f"exit status {exited}; {error}"
    return (PASSED, found) if exited == 0 else (FAILED, f"exit status {exited}; {found}")
