"""`make demo`: the model that comes with the package, served by name, answers right when pruned."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[3]


def test_demo():
    command = [sys.executable, ROOT / "benchmarks" / "demo.py"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "vllm serve script-demo --plugin script --keep-ratio 0.11" in shown
    lines = [line for line in shown.splitlines() if "first token after" in line]
    assert len(lines) == 4
    for line, words in zip(
        lines,
        [
            ("pruned", "111 visual tokens", "blue"),
            ("without pruning", "1008 visual tokens", "blue"),
            ("pruned", "111 visual tokens", "4"),
            ("without pruning", "1008 visual tokens", "4"),
        ],
        strict=True,
    ):
        assert line.startswith(words[0]) and words[1] in line and words[2] in line.split(":")[-1]
    assert "pruning looked for   Which digit is yellow?" in shown
