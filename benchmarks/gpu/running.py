"""Run one command under a limit, and end whatever it has started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

GRACE_SECONDS = 45
"""What a command gets to stop its servers in order, before it is killed."""
LOOK_SECONDS = 0.5


def run(
    command: Sequence[str],
    log: Path,
    *,
    limit: float,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    look: Callable[[float], None] = lambda seconds: None,
) -> int | None:
    """Run a command to its end, with all that it prints in a file.

    When this returns or raises, nothing lives that the command has started.

    Args:
        limit: seconds after which it is stopped.
        env: environment variables beside the parent's.
        look: called with the seconds so far, twice a second.

    Returns:
        its exit status, or None where the limit was reached.
    """
    started = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is ours to pass on
        )
    family: set[psutil.Process] = set()
    try:
        while (passed := time.monotonic() - started) < limit:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(LOOK_SECONDS)
            family |= _descendants(process.pid)
            look(passed)
        return None
    finally:
        _end(process, family)


def _end(process: subprocess.Popen[bytes], family: set[psutil.Process]) -> None:
    """Have a process stop in order, then kill what is left of it and of what it has started.

    Servers are in sessions of their own, and outlive whoever started them unless they are ended.
    """
    try:
        if process.poll() is None:
            family |= _descendants(process.pid)
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait()


def _descendants(pid: int) -> set[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return set(psutil.Process(pid).children(recursive=True))
    return set()
