"""A server child never outlives its `with` block."""

import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from vllm_script.server import launch
from vllm_script.server.launch import VllmServer, _shown


def test_the_first_error_is_shown_too():
    lines = [f"INFO {n}" for n in range(50)]
    assert _shown("\n".join(lines)).splitlines() == ["the end of its log:", *lines[-30:]]
    log = ["INFO", "ERROR cause", "ERROR trace", *lines, "ERROR Engine core initialization failed"]
    shown = _shown("\n".join(log)).splitlines()
    assert shown[:3] == ["its first error:", "ERROR cause", "ERROR trace"]
    assert shown[-30:] == log[-30:] and "the end of its log:" in shown
    assert len(set(shown[1:])) == len(shown[1:])  # no line twice


KILLED = """
import os, signal, time
from vllm_script.server.launch import VllmServer
class Sleeping(VllmServer):
    def _answers(self):
        return True
server = Sleeping("model")
server._command = ["sh", "-c", "sleep 1000 & wait"]
with server:
    time.sleep(1)
    assert server._process.poll() is None
    print(server._process.pid, server.log_path, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_it_ends_with_a_process_that_is_killed():
    """All of its processes, although none of them is told."""
    command = [sys.executable, "-P", "-c", KILLED]
    killed = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    assert killed.returncode == -signal.SIGKILL
    group, log = killed.stdout.split()
    deadline = time.monotonic() + 10
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(int(group), 0)
            time.sleep(0.05)
    os.unlink(log)


@pytest.fixture
def sleeping(monkeypatch):
    """A server that sleeps, and is said to answer."""
    monkeypatch.setattr(VllmServer, "_answers", lambda server: True)
    server = VllmServer("model")
    server._command = [shutil.which("sleep"), "1000"]
    return server


def test_a_server_that_cannot_be_watched_is_stopped(sleeping, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))  # which has no shell
    with pytest.raises(FileNotFoundError, match="sh"), sleeping:
        pass
    with pytest.raises(ProcessLookupError):
        os.killpg(sleeping._process.pid, 0)
    assert not sleeping.log_path.exists()


def test_nothing_is_killed_after_a_server_has_ended(sleeping, monkeypatch):
    """Its number may be that of another group by then."""
    lifeline = launch._lifeline
    other = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    try:
        monkeypatch.setattr(launch, "_lifeline", lambda group: lifeline(other.pid))
        with sleeping:
            waiting = [
                process
                for process in psutil.process_iter(["cmdline"])
                if f"KILL -- -{other.pid})" in " ".join(process.info["cmdline"] or ())
            ]
        gone, _ = psutil.wait_procs(waiting, timeout=10)
        assert len(gone) == len(waiting) == 1
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@pytest.mark.real
def test_a_server_that_fails_shows_its_log(tmp_path):
    with (
        pytest.raises(RuntimeError, match=r"exited with status [1-9](.|\n)*end of its log:\n.*\n"),
        VllmServer(tmp_path / "no-such-model"),
    ):
        pass


@pytest.mark.real
def test_an_interrupt_while_it_starts_stops_it(checkpoint):
    def interrupt(seconds):
        if seconds > 3:
            raise KeyboardInterrupt

    server = VllmServer(checkpoint("llava-next"), progress=interrupt)
    with pytest.raises(KeyboardInterrupt), server:
        pass
    with pytest.raises(ProcessLookupError):
        os.killpg(server._process.pid, 0)
    assert not server.log_path.exists()
