"""The command, and the columns of its table."""

import json
import subprocess
import sys

import pytest
import torch

from vllm_script.benchmarks import kernel_bench
from vllm_script.benchmarks.kernel.columns import COLUMNS, HEADER, line_of, row_of
from vllm_script.benchmarks.kernel.inputs import Shape
from vllm_script.benchmarks.kernel.ops import Run
from vllm_script.benchmarks.kernel.timing import Times, Work

SHAPE = Shape(2880, 4096, 0.11, 322, 8)
TIMES = Times(1e-3, 2e-3, 3e-3, 4e-3, 5e-5)
PEAK = Work(3e12, 8e14)


def row(op, variant="triton", times=TIMES):
    run = Run(op, variant, lambda: None)
    return row_of(run, SHAPE, torch.bfloat16, times, 3, PEAK)


def test_columns():
    found = row("selection")
    assert list(found) == list(COLUMNS)
    times = ("p20 ms", "p50 ms", "p80 ms", "cold ms", "host ms")
    assert [found[name] for name in times] == pytest.approx([1, 2, 3, 4, 0.05])
    assert (found["rounds"], found["us/step"], found["TFLOP/s"]) == (3, None, None)
    assert row("greedy_map")["us/step"] == pytest.approx(2000 / 322)  # all images take a step
    ours, theirs = row("similarity")["TFLOP/s"], row("similarity", "mm float32")["TFLOP/s"]
    assert ours == pytest.approx(8 * 2880 * 2881 * 4096 / 2e-3 / 1e12)
    assert theirs == pytest.approx(ours * 2 * 2880 / 2881)
    assert row("selection", "published")["rounds"] is None
    assert row("norms")["roofline"] == pytest.approx(8 * 2880 * (4096 * 2 + 4) / 3e12 / 2e-3)


def test_cells_stand_below_their_titles():
    on_cpu = row("greedy_map", times=Times(1e-3, 2e-3, 3e-3))
    for each in (row("selection"), row("similarity"), on_cpu):
        assert len(line_of(each)) == len(HEADER)
    assert line_of(on_cpu).count("None") == 0
    assert " 6.21 " in line_of(on_cpu)


@pytest.mark.slow
def test_the_command(tmp_path):
    command = [sys.executable, kernel_bench.__file__, "--json", str(tmp_path / "rows")]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    rows = [json.loads(line) for line in (tmp_path / "rows").open()]
    assert {row["variant"] for row in rows} == {"mm float32", "eager", "compiled", "published"}
    assert all(row["p50 ms"] > 0 and row["cold ms"] is None for row in rows)
    lines = [line for line in shown.stdout.splitlines() if not line.startswith("#")]
    assert len(lines) == 1 + len(rows) and lines[0].split()[:2] == ["op", "variant"]
