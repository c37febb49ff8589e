"""What whoever watches sees: which part runs, since when, how long it may take, what it prints."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TextIO

EVERY_SECONDS = 30
"""Between two lines, where the output is no terminal."""
TAIL_BYTES = 4000


class Progress:
    """Of one part.

    Args:
        label: names it, as "[3/15] kernels".
        limit: seconds that it may take.
        log: file of what it prints.
    """

    def __init__(self, label: str, limit: float, log: Path, stream: TextIO | None = None) -> None:
        self._label, self._limit, self._log = label, limit, log
        self._stream = stream or sys.stdout
        self._in_place = self._stream.isatty()
        self._next = 0.0

    def __call__(self, seconds: float) -> None:
        """Say how far it is: in place in a terminal, else now and then on a line of its own."""
        text = f"{self._label}: {clock(seconds)} of at most {clock(self._limit)}"
        if lines := last_lines(self._log, 1):
            text += f" | {lines[0]}"
        if self._in_place:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\033[K{text[:width]}", end="", file=self._stream, flush=True)
        elif seconds >= self._next:
            self._next = seconds + EVERY_SECONDS
            print(text, file=self._stream, flush=True)

    def end(self, text: str) -> None:
        """Say how it ended."""
        cleared = "\r\033[K" if self._in_place else ""
        print(f"{cleared}{self._label}: {text}", file=self._stream, flush=True)


def clock(seconds: float) -> str:
    """Minutes and seconds, as 2:05."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def last_lines(log: Path, count: int) -> list[str]:
    """The last lines of a file that are not empty; of a bar only what is seen of it."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        text = file.read().decode(errors="replace")
    lines = (line.rstrip("\r").rpartition("\r")[2].strip() for line in text.split("\n"))
    return [line for line in lines if line][-count:]
