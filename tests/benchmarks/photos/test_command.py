"""The command, on drawn photographs and script-demo's CLIP."""

import sys

import pytest
from PIL import Image

from vllm_script.benchmarks import photo_bench
from vllm_script.benchmarks.common import read_lines
from vllm_script.server.aliases import SCRIPT_DEMO, repository_of

CLIP = f"{repository_of(SCRIPT_DEMO)}/clip"


@pytest.fixture
def run(folder, tmp_path, monkeypatch):
    """run(*flags) -> the folder of results."""

    def start(*flags):
        own = ("--photos", str(folder), "--out", str(tmp_path), "--ratios", "0.5", "0.1", *flags)
        monkeypatch.setattr(sys, "argv", ["photo_bench.py", *own])
        photo_bench.main()
        return tmp_path

    return start


def test_a_clip_and_its_text(run, capsys, monkeypatch):
    out = run("--tower", CLIP, "--limit", "2", "--pictures", "1")
    about, *lines = read_lines(out / "photos.jsonl")
    assert about["ratios"] == [0.5, 0.1] and len(lines) == 2
    text = (out / "report.md").read_text()
    assert text in capsys.readouterr().out
    for row in (
        "| script, text |",
        "| script, text, wrong sign |",
        "| gsp |",
        "| small stuff (0) |",
        "- text: the tower's own",
    ):
        assert row in text
    figures = read_lines(out / "figures.jsonl")
    assert figures[1].keys() == {"table", "row", "column", "value"}  # of two nobody knows bounds
    (drawn,) = (out / "pictures").iterdir()
    assert Image.open(drawn).width > 800
    assert (out / "plot.png").stat().st_size > 10_000

    # Again, with more photographs: what is measured is not measured again.
    counted = []
    again = photo_bench.measure
    monkeypatch.setattr(photo_bench, "measure", lambda *a: counted.append(a) or again(*a))
    run("--tower", CLIP, "--limit", "3", "--pictures", "0")
    assert len(counted) == 1
    assert read_lines(out / "photos.jsonl")[1:3] == lines


def test_some_photographs_only(run, tower, tmp_path):
    out = run("--tower", tower, "--limit", "3", "--pictures", "0")
    _, first, *_ = read_lines(out / "photos.jsonl")
    (tmp_path / "numbers.txt").write_text(f"{first['id']}\n999999\n")
    run("--tower", tower, "--only", str(tmp_path / "numbers.txt"), "--pictures", "0")
    assert "- photographs: 1, " in (out / "report.md").read_text()
    assert len(read_lines(out / "photos.jsonl")) == 4


def test_results_of_something_else(run, tower):
    run("--tower", tower, "--limit", "1", "--pictures", "0")
    with pytest.raises(SystemExit, match="has results with tower .*choose another --out"):
        run("--tower", CLIP)


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--tower", "nowhere"), "--tower nowhere cannot be loaded by transformers"),
        (("--tower", CLIP, "--text", "nowhere"), "--text nowhere is no file and no CLIP"),
        (("--tower", CLIP, "--photos", "nowhere"), "nowhere has no photographs"),
    ],
)
def test_mistakes(run, flags, message):
    with pytest.raises(SystemExit, match=message):
        run(*flags)
