"""What every benchmark does around its measurement."""

import base64
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vllm_script.benchmarks import common

BENCHMARKS = Path(common.__file__).parent
COMMANDS = sorted(path for path in BENCHMARKS.glob("*.py") if "__main__" in path.read_text())


def test_line_that_was_cut_short_is_left_out(tmp_path):
    path = tmp_path / "lines.jsonl"
    assert common.read_lines(path) == []
    common.write_lines(path, [{"a": 1}, {"b": 2}])
    with path.open("a") as file:
        file.write('{"c": 3')
    assert common.read_lines(path) == [{"a": 1}, {"b": 2}]
    assert list(tmp_path.iterdir()) == [path]
    for line in ({"d": 4}, {"e": 5}):
        with common.appended_lines(path) as append:
            append(line)
    assert common.read_lines(path) == [{"a": 1}, {"b": 2}, {"d": 4}, {"e": 5}]


def test_arguments_after_two_dashes_are_the_servers(monkeypatch):
    assert common.split_arguments(["--a", "1", "--", "--b", "--"]) == (["--a", "1"], ["--b", "--"])
    monkeypatch.setattr(sys, "argv", ["serve_bench.py", "--a"])
    assert common.split_arguments(None) == (["--a"], [])


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("no such size"), "serve_bench.py: no such size"), (KeyboardInterrupt(), 130)],
)
def test_expected_errors_are_one_line(error, status, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmarks/serve_bench.py"])
    with pytest.raises(SystemExit) as ended, common.ending_well(ValueError):
        raise error
    assert ended.value.code == status


def test_other_errors_keep_their_traceback():
    with pytest.raises(KeyError), common.ending_well(ValueError):
        raise KeyError


def test_sigterm_ends_what_the_block_has_started(monkeypatch):
    before, ended = signal.getsignal(signal.SIGTERM), []
    with pytest.raises(SystemExit) as stopped, common.ending_well():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            ended.append(True)
    assert stopped.value.code == 143 and ended
    assert signal.getsignal(signal.SIGTERM) is before


def test_reader_can_repeat_the_run(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/checkout/benchmarks/soak.py", "--out", "my folder"])
    about = common.repeatable(("torch", "no-such-package"))
    assert about["command"] == "python benchmarks/soak.py --out 'my folder'"
    assert about["versions"].endswith(", no-such-package not installed")
    assert "cores" in common.machine() or common.accelerator()


def test_tables():
    assert common.markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
    assert common.bullets({"server_flags": "--x", "seed": 0}) == "- server flags: --x\n- seed: 0"


def test_media_are_jpegs():
    film = np.random.default_rng(0).integers(0, 256, (2, 30, 40, 3), dtype=np.uint8)
    picture = common.data_url(film[0])
    head, frames = common.data_url(film).split(",", 1)
    assert head == "data:video/jpeg;base64" and len(frames.split(",")) == 2
    assert picture == f"data:image/jpeg;base64,{frames.split(',')[0]}"
    data = io.BytesIO(base64.b64decode(picture.split(",")[1]))
    assert Image.open(data).size == (40, 30)


@pytest.mark.slow  # a dozen processes, each of which imports torch
@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.name)
def test_commands_say_what_they_do(path, tmp_path):
    """Each is run as users run it, by its path, from another folder."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, path, "--help"]
    shown = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    first, *_ = path.read_text().split("\n", 1)
    assert " ".join(first.strip('"').split()) in " ".join(shown.stdout.split())
    assert not list(tmp_path.iterdir())
