"""The page says of thinned towers what the committed files say."""

import re
from pathlib import Path

import pytest

from vllm_script import benchmarks
from vllm_script.benchmarks.accuracy.scores import Scores
from vllm_script.benchmarks.accuracy.settings import Setting
from vllm_script.benchmarks.common import read_lines
from vllm_script.benchmarks.intervals import paired_difference
from vllm_script.benchmarks.thinning.hook import Cut
from vllm_script.benchmarks.thinning.measures import WHOLE

PAGE = (Path(benchmarks.__file__).parent / "README.md").read_text(encoding="utf-8")
(SECTION,) = (part for part in PAGE.split("\n## ") if part.startswith("Inside the vision tower"))
SHOWN = (
    *("cosine", "distance of a dropped patch"),
    *("objects hit, 0.11", "share of the object, 0.11"),
)
LAYERS = (2, 3, 4, 6)
ROWS = (
    *(WHOLE, "scattered", "random", "GSP", "farthest first"),
    "3/4 scattered, rest novel",
)


@pytest.fixture(scope="module")
def figures(committed):
    """(cut, score, column) -> value, of the run on photographs."""
    lines = read_lines(committed("tower-dinov2").with_suffix(".jsonl"))[1:]
    return {(line["table"], line["row"], line["column"]): line["value"] for line in lines}


@pytest.mark.parametrize("row", ROWS)
def test_photographs(row, figures):
    lines = [line for line in SECTION.splitlines() if " / " in line]
    name = row if row == WHOLE else f"`{row}`"
    (line,) = (line for line in lines if line.startswith(f"| {name} |"))
    expected = [
        " / ".join(f"{figures[f'Keep {Cut(layer, 0.5)}', row, column]:.3f}" for column in SHOWN)
        for layer in LAYERS
    ]
    assert [cell.strip() for cell in line.strip("|").split("|")[1:]] == expected


@pytest.mark.parametrize("name", ["tower-scenes", "tower-scenes-groups", "tower-scenes-oddest"])
def test_script_demo(name, committed):
    """Each figure of the report stands on the page, under the name of its score."""
    rows = re.findall(r"^\| (.+), 0.5 after layer (\d) (\|.+)$", committed(name).read_text(), re.M)
    assert rows
    for score, layer, cells in rows:
        assert f"| `{score}`, layer {layer} {cells}" in SECTION


def test_served(committed):
    """What script-demo answers with a thinned tower, and the same questions with the whole one."""
    thinned, whole = (
        Scores.load(committed(f"accuracy-{name}-tower").with_suffix(".jsonl"))
        for name in ("thinned", "whole")
    )
    both = [
        (thinned.right[setting], whole.right[setting])
        for setting in (Setting(ratio, "script", "clip") for ratio in (0.11, 0.056))
    ]
    shares = " | ".join(f"{right.mean():.3f}" for _, right in both)
    losses = " | ".join(paired_difference(*right).shown("+.3f") for right in both)
    assert f"| whole tower | {shares} |" in SECTION
    assert f"| thinned to 0.5, less whole | {losses} |" in SECTION


def test_operations(committed):
    report = committed("tower-flops").read_text()
    shares = re.findall(r"^\| 0.5 (\|.+)$", report, re.M)
    assert len(shares) == 2
    assert all(cells in SECTION for cells in shares)
