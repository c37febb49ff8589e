"""tower_scenes.py as a command."""

import sys

import pytest

from vllm_script.benchmarks import tower_scenes
from vllm_script.benchmarks.common import read_lines

NOVEL = "3/4 scattered, rest novel"


@pytest.fixture
def run(monkeypatch, tmp_path):
    """run(*flags) -> the folder of results."""

    def start(*flags):
        own = (*flags, "--out", str(tmp_path))
        monkeypatch.setattr(sys, "argv", ["tower_scenes.py", *own])
        tower_scenes.main()
        return tmp_path

    return start


def test_scenes(run):
    flags = ("--after", "2", "--keep", "0.5", "--scores", NOVEL, "--ratios", "0.056")
    out = run("--questions", "1", *flags)
    (about, first) = read_lines(out / "answers.jsonl")
    assert about["towers"] == ["whole tower", f"{NOVEL}, 0.5 after layer 2"]
    assert first.keys() == {"kind", "all tokens", *about["towers"]}
    assert [len(first[name]) for name in about["towers"]] == [1, 1]

    out = run("--questions", "2", *flags)
    assert read_lines(out / "answers.jsonl")[1] == first
    assert "- questions: 2 of the dev split" in (out / "report.md").read_text()
    with pytest.raises(SystemExit, match="has results with split dev, not test"):
        run("--questions", "2", "--split", "test", *flags)


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--after", "4"), "script-demo reads the fourth layer; got 4"),
        (("--keep", "0.2"), "--ratios 0.11 may be more than --keep 0.2 leaves"),
        (("--ratios", "0"), "--ratios are between 0 and 1, got 0"),
    ],
)
def test_mistakes_about_scenes(run, flags, message, capsys):
    with pytest.raises(SystemExit):
        run(*flags)
    assert message in capsys.readouterr().err
