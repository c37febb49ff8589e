"""tower_bench.py as a command, on drawn photographs and script-demo's tower."""

import sys

import pytest

from vllm_script.benchmarks import tower_bench
from vllm_script.benchmarks.common import read_lines
from vllm_script.server.aliases import SCRIPT_DEMO, repository_of

CLIP = f"{repository_of(SCRIPT_DEMO)}/clip"
NOVEL = "3/4 scattered, rest novel"


@pytest.fixture
def run(folder, monkeypatch, tmp_path):
    """run(*flags) -> the folder of results; the tower is script-demo's unless one is named."""

    def start(*flags):
        own = ("--photos", str(folder), "--tower", CLIP, *flags, "--out", str(tmp_path))
        monkeypatch.setattr(sys, "argv", ["tower_bench.py", *own])
        tower_bench.main()
        return tmp_path

    return start


SHORT = ("--after", "2", "--keep", "0.5", "--scores", "scattered", NOVEL)


def test_photographs(run, monkeypatch, capsys):
    out = run("--limit", "2", *SHORT)
    about, *lines = read_lines(out / "photos.jsonl")
    assert about["cuts"] == ["0.5 after layer 2"] and len(lines) == 2
    fidelity = lines[0]["fidelity"]
    assert fidelity.keys() == {"scattered", NOVEL}
    cosine, centered, distance, _ = fidelity["scattered"]["0.5 after layer 2"]
    assert 0 < centered < cosine <= 1 and 0 < distance < 1
    text = (out / "report.md").read_text()
    assert text in capsys.readouterr().out
    for row in ("whole tower | 1.000 | 1.000 | 0.000", f"{NOVEL} - scattered"):
        assert f"| {row} |" in text

    # Again, with more photographs: what is measured is not measured again.
    counted = []
    again = tower_bench.measure
    monkeypatch.setattr(tower_bench, "measure", lambda *a: counted.append(a) or again(*a))
    run("--limit", "3", *SHORT)
    assert len(counted) == 1
    assert read_lines(out / "photos.jsonl")[1:3] == lines


def test_photographs_of_two_halves(run, tmp_path):
    (tmp_path / "half.txt").write_text("1\n2\n")
    out = run("--only", str(tmp_path / "half.txt"), *SHORT)
    assert {line["id"] for line in read_lines(out / "photos.jsonl")[1:]} == {1, 2}
    with pytest.raises(SystemExit, match="leave no photograph"):
        both = ("--only", str(tmp_path / "half.txt"), "--without", str(tmp_path / "half.txt"))
        run(*both, *SHORT)


def test_layers_of_the_default(run):
    """Of five layers a 6th, a 4th, a 3rd and a half: the first and the second."""
    out = run("--limit", "1", "--keep", "0.5", "--scores", "scattered")
    about = read_lines(out / "photos.jsonl")[0]
    assert about["cuts"] == ["0.5 after layer 1", "0.5 after layer 2"]


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--after", "4"), "--after 4 is not between the first layer and the one that is read, 4"),
        (("--after", "3", "--layer", "3"), "the one that is read, 3"),
        (
            ("--tower", "vllm_script.benchmarks.photos.nothing:at_all"),
            "cannot be imported",
        ),
    ],
)
def test_mistakes(run, flags, message):
    with pytest.raises(SystemExit, match=message):
        run(*flags)


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--keep", "1"), "--keep are between 0 and 1, got 1"),
        (("--ratios", "0.4", "--keep", "0.25"), "--ratios 0.4 is more than the tower leaves"),
    ],
)
def test_mistakes_of_the_command_line(run, flags, message, capsys):
    with pytest.raises(SystemExit):
        run(*flags)
    assert message in capsys.readouterr().err


def test_a_tower_without_layers(run, tower):
    with pytest.raises(SystemExit, match="no layers that patches can be dropped between"):
        run("--tower", tower)
