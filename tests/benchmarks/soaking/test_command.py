"""The command itself, for half a minute, against a real server."""

import json
import subprocess
import sys

import pytest

from vllm_script.benchmarks import soak


@pytest.mark.slow
def test_half_a_minute(tmp_path):
    arguments = ("--minutes", "0.5", "--every", "2", "--cache-gb", "0.006", "--out", tmp_path)
    command = [sys.executable, soak.__file__, *arguments]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr[-2000:]
    assert "All checks passed" in (tmp_path / "report.md").read_text()
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").open()]
    assert lines[-1]["requests"] > 20
    assert all(sum(line["memory_mib"].values()) > 200 for line in lines)
