"""Run `vllm serve` as a child process: started, waited for, and stopped whatever happens.

For the commands `explain`, `playground` and `tune`, the demo, the benchmarks and the tests; `vllm
serve` does without it.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import IO, Any

LAST_LINES, FIRST_LINES = 30, 60
"""Of the log of a server that does not start, and of its first error."""


class VllmServer:
    """A server for the length of a `with` block.

    Args:
        model: what `vllm serve` is given.
        flags: further arguments of `vllm serve`.
        env: environment variables beside the parent's.
        start_timeout: seconds to wait for it to answer.
        progress: called with the seconds waited, about once a second while it starts.
        python: the Python that has vLLM; None: this one.
        port: to serve at; None: one that is free.

    Raises:
        RuntimeError: it exits or stays silent; the message has the end of its log.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *flags: str,
        env: Mapping[str, str] | None = None,
        start_timeout: float = 600,
        progress: Callable[[float], None] = lambda seconds: None,
        python: str | None = None,
        port: int | None = None,
    ) -> None:
        self.port = port or _free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._command = [python or sys.executable, "-m", "vllm.entrypoints.cli.main", "serve"]
        self._command += [str(model), "--host", "127.0.0.1", "--port", str(self.port), *flags]
        self._env = {**os.environ, **(env or {})}
        self._start_timeout = start_timeout
        self._progress = progress
        handle, name = tempfile.mkstemp(prefix="vllm-serve-", suffix=".log")
        os.close(handle)
        self.log_path = pathlib.Path(name)
        self._lifeline: IO[bytes] | None = None

    def __enter__(self) -> VllmServer:
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a group of its own, with all of vLLM's processes
            )
        try:
            self._lifeline = _lifeline(self._process.pid)
            self._wait_until_it_answers()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._lifeline:
            with contextlib.suppress(BrokenPipeError), self._lifeline:
                self._lifeline.write(b"it has ended\n")
        self.log_path.unlink(missing_ok=True)

    def wait(self) -> None:
        """Wait for as long as it serves.

        Raises:
            RuntimeError: it has ended by itself; the message has the end of its log.
        """
        status = self._process.wait()
        raise RuntimeError(f"vllm serve ended with status {status}; {_shown(self.log())}")

    def log(self) -> str:
        """Everything the server has printed."""
        return self.log_path.read_text(errors="replace")

    def _wait_until_it_answers(self) -> None:
        started = time.monotonic()
        while not self._answers():
            waited = time.monotonic() - started
            if self._process.poll() is not None:
                problem = f"exited with status {self._process.returncode}"
            elif waited > self._start_timeout:
                problem = f"did not answer within {self._start_timeout:.0f} s"
            else:
                self._progress(waited)
                time.sleep(1)
                continue
            raise RuntimeError(f"vllm serve {problem}; {_shown(self.log())}")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def show_waiting(model: str) -> Callable[[float], None]:
    """A `progress` that says on stderr that a model is being loaded, in place on a terminal."""

    def show(seconds: float) -> None:
        if sys.stderr.isatty() or round(seconds) % 10 == 0:
            end = "\r" if sys.stderr.isatty() else "\n"
            print(f"loading {model} ... {seconds:3.0f} s", end=end, file=sys.stderr, flush=True)

    return show


def _shown(log: str) -> str:
    """The end of a log, and before it, where it is not in there, the first error.

    vLLM's processes end one after the other, and only the first says why.
    """
    lines = log.splitlines()
    errors = [number for number, line in enumerate(lines) if "ERROR" in line]
    end = max(0, len(lines) - LAST_LINES)
    shown = "the end of its log:\n" + "\n".join(lines[end:])
    if errors and errors[0] < end:
        first = lines[errors[0] : min(end, errors[0] + FIRST_LINES)]
        shown = "its first error:\n" + "\n".join([*first, "", shown])
    return shown


def _lifeline(group: int) -> IO[bytes]:
    """A pipe that keeps a group of processes alive: it is killed when the pipe is closed.

    Not where a line comes first, which says that the group has ended: its number may be another's.
    A process that is killed closes its pipes. Who waits for that is no child of this process: Ray
    kills an actor together with its children, but not with theirs.
    """
    # The shell gives what it does not wait for an empty input in the place of its own.
    waiter = f"exec 3<&0; (read -r ended <&3 || kill -s KILL -- -{group}) &"
    silent: dict[str, Any] = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    shell = subprocess.Popen(
        ["sh", "-c", waiter], stdin=subprocess.PIPE, start_new_session=True, **silent
    )
    shell.wait()
    assert shell.stdin is not None
    return shell.stdin


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
