"""Which patches stay, of grids worked by hand and of random states."""

import pytest
import torch

from vllm_script.benchmarks.thinning.scores import SCORES, scattered, serpentine


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("count", [1, 9, 18, 27, 35])
def test_as_many_as_asked_for(score, count):
    kept = SCORES[score](torch.randn(36, 8), count)
    assert kept.dtype == torch.int64 and kept.tolist() == sorted({*kept.tolist()})
    assert len(kept) == count and kept[0] >= 0 and kept[-1] < 36


def rows_of(kept, side=4):
    """A grid with an x for what stays."""
    marks = ["x" if place in kept.tolist() else "." for place in range(side * side)]
    return ["".join(marks[row * side : (row + 1) * side]) for row in range(side)]


@pytest.mark.parametrize(
    "count, expected",
    [
        (4, ["x.x.", "....", "x.x.", "...."]),
        (8, ["x.x.", ".x.x", "x.x.", ".x.x"]),
        (12, ["xxxx", ".x.x", "xxxx", ".x.x"]),
    ],
)
def test_scattered(count, expected):
    """A lattice, a chessboard, and a chessboard with a lattice of its other half."""
    assert rows_of(scattered(torch.zeros(16, 1), count)) == expected


def test_serpentine():
    assert rows_of(serpentine(torch.zeros(16, 1), 4)) == ["x...", "...x", "x...", "...x"]
    half = serpentine(torch.zeros(16, 1), 8)
    assert rows_of(half) == rows_of(scattered(torch.zeros(16, 1), 8))


def one_thing_on_a_wall(side=8):
    """States of a wall, but for two patches that look like nothing else."""
    states = torch.zeros(side * side, 3)
    states[:, 0] = 1
    states[9], states[30] = torch.tensor([0.0, 1, 0]), torch.tensor([0.0, 0, 1])
    return states


@pytest.mark.parametrize(
    "score",
    [name for name in SCORES if "rest" in name] + ["GSP", "farthest first", "coverage"],
)
def test_what_is_like_nothing_else_stays(score):
    assert {9, 30} <= {*SCORES[score](one_thing_on_a_wall(), 16).tolist()}


def test_norm():
    states = torch.arange(16.0)[:, None]
    assert SCORES["norm"](states, 4).tolist() == [12, 13, 14, 15]
