"""A command under a limit: it ends, and with it all that it has started."""

import sys
import time

import psutil
import pytest

from vllm_script.benchmarks.gpu import running
from vllm_script.benchmarks.gpu.running import run

LIMIT = 1

# Starts a child in a session of its own, as servers are, and says which.
PARENT = """
import subprocess, sys, time
child = subprocess.Popen(
    [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
)
print(child.pid, flush=True)
time.sleep({seconds})
"""
ORDERLY = """
import signal, sys, time
def stop(*_):
    print("stopped in order", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(600)
"""
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def python(code):
    return [sys.executable, "-c", code]


def test_what_it_prints_is_kept(tmp_path):
    code = "import os, sys; print(os.environ['ADDED'], os.getcwd()); sys.exit('wrong')"
    log = tmp_path / "log"
    assert run(python(code), log, limit=60, cwd=tmp_path, env={"ADDED": "yes"}) == 1
    assert log.read_text().split() == ["yes", str(tmp_path), "wrong"]


def until_it_prints(log):
    """A look that takes until there is something in the log."""

    def look(seconds):
        assert seconds < LIMIT
        while not log.read_text():
            time.sleep(0.05)

    return look


def test_limit(tmp_path):
    log = tmp_path / "log"
    look = until_it_prints(log)
    assert run(python(ORDERLY), log, limit=LIMIT, cwd=tmp_path, look=look) is None
    assert log.read_text().split("\n")[:2] == ["ready", "stopped in order"]


def test_one_that_does_not_listen_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "GRACE_SECONDS", 0.5)
    begin = time.monotonic()
    assert run(python(DEAF), tmp_path / "log", limit=LIMIT, cwd=tmp_path) is None
    assert time.monotonic() - begin < 20


def test_nothing_outlives_its_limit(tmp_path):
    log = tmp_path / "log"
    look = until_it_prints(log)
    command = python(PARENT.format(seconds=600))
    assert run(command, log, limit=LIMIT, cwd=tmp_path, look=look) is None
    assert has_ended(int(log.read_text()))


def test_nothing_outlives_its_end(tmp_path):
    log = tmp_path / "log"
    assert run(python(PARENT.format(seconds=3)), log, limit=60, cwd=tmp_path) == 0
    assert has_ended(int(log.read_text()))


def test_ctrl_c_ends_it(tmp_path):
    log = tmp_path / "log"

    def interrupted(seconds):
        if log.read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(python(PARENT.format(seconds=600)), log, limit=60, cwd=tmp_path, look=interrupted)
    assert has_ended(int(log.read_text()))


def has_ended(pid):
    """Whether a process is gone, or dead and not yet collected by whoever adopted it."""
    for _ in range(50):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.1)
    return False
