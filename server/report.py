"""A report of checks on the terminal, for `vllm-script doctor`: one line for each, as it is found.

It is to be pasted into bug reports: of folders the last component is shown.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

COLUMNS = 100


class Wrong(Exception):
    """A check found something wrong; the text says what it is and what to do."""


class Report:
    """The lines of the report, printed one by one.

    Args:
        without_paths: takes the user's folders out of a text.
    """

    def __init__(self, without_paths: Callable[[str], str]) -> None:
        self._without_paths = without_paths
        self._wrong: list[str] = []

    def check(self, name: str, find: Callable[[], str]) -> bool:
        """Print what `find` returns or raises, not what else it prints; whether all is well."""
        with quiet() as terminal:
            if terminal.isatty():
                print(f"checking {name} ...", end="\r", file=terminal, flush=True)
            try:
                word, text = "ok", find()
            except Wrong as error:
                word, text = "wrong", str(error)
            except Exception as error:  # of any package that is looked at
                word, text = "wrong", first_line(error)
            if terminal.isatty():
                print(" " * COLUMNS, end="\r", file=terminal, flush=True)
        if word == "wrong":
            self._wrong.append(name)
        self._print(word, name, text)
        return word == "ok"

    def note(self, name: str, find: Callable[[], str]) -> None:
        """Print what `find` returns as something to know, or why it cannot be known."""
        with quiet():
            try:
                text = find()
            except Exception as error:  # of any model that vLLM knows
                text = f"not found out: {first_line(error)}"
        self._print("-", name, text)

    def skip(self, name: str, why: str) -> None:
        """Print that something could not be checked."""
        self._print("-", name, why)

    def close(self) -> int:
        """Print the last line, which sums up; the exit status."""
        if not self._wrong:
            print("\nAll is well: pruning works here.")
            return 0
        verb = "thing is" if len(self._wrong) == 1 else "things are"
        print(f"\n{len(self._wrong)} {verb} wrong: {', '.join(self._wrong)}.")
        return 1

    def _print(self, word: str, name: str, text: str) -> None:
        start = f"{word:<7}{name:<14}"
        for line in self._without_paths(text).splitlines():
            margin = " " * len(start)
            filler = textwrap.TextWrapper(COLUMNS, start, margin, break_on_hyphens=False)
            print(filler.fill(line), flush=True)
            start = margin


@contextlib.contextmanager
def quiet() -> Iterator[Any]:
    """Drop what this process and its children print; yields a way to the terminal."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    with open(os.devnull, "wb") as nowhere, os.fdopen(os.dup(2), "w") as terminal:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield terminal
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, copy in enumerate(saved, start=1):
                os.dup2(copy, number)
                os.close(copy)


class PathRemover:
    """Takes folders out of texts: of each path the last component stays.

    Args:
        model: what the user gave, whose folder may have a name with spaces.
    """

    _PATH = re.compile(r"(?<![\w/:.~-])~?/(?:[^\s/'\"(),:;]+/)*([^\s/'\"(),:;]*)")

    def __init__(self, model: str | None) -> None:
        self._known = {str(pathlib.Path.home()): "~"}
        if model is not None and (folder := pathlib.Path(model)).exists():
            self._known |= {
                str(folder.resolve()): folder.resolve().name,
                str(folder.absolute()): folder.absolute().name,
            }
            if "/" in model:
                self._known[model.rstrip("/")] = folder.resolve().name

    def __call__(self, text: str) -> str:
        """The text without folders."""
        for path, name in sorted(self._known.items(), key=lambda item: -len(item[0])):
            text = text.replace(path, name)
        return self._PATH.sub(r"\1", text)


def first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
