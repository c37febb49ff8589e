"""Which patches stay, of grids worked by hand and of random states."""

import pytest
import torch

from vllm_script.benchmarks.thinning.scores import IN_GROUPS, OF_PATCHES, scattered


@pytest.mark.parametrize("score", OF_PATCHES)
@pytest.mark.parametrize("count", [1, 9, 18, 27, 35])
def test_as_many_as_asked_for(score, count):
    kept = OF_PATCHES[score](torch.randn(36, 8), count)
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


def one_thing_on_a_wall(side=8):
    """States of a wall, but for two patches that look like nothing else."""
    states = torch.zeros(side * side, 3)
    states[:, 0] = 1
    states[9], states[30] = torch.tensor([0.0, 1, 0]), torch.tensor([0.0, 0, 1])
    return states


@pytest.mark.parametrize(
    "score",
    [name for name in OF_PATCHES if "rest" in name] + ["GSP", "farthest first", "coverage"],
)
def test_what_is_like_nothing_else_stays(score):
    assert {9, 30} <= {*OF_PATCHES[score](one_thing_on_a_wall(), 16).tolist()}


def test_norm():
    states = torch.arange(16.0)[:, None]
    assert OF_PATCHES["norm"](states, 4).tolist() == [12, 13, 14, 15]


@pytest.mark.parametrize("name", IN_GROUPS)
def test_whole_groups_stay(name):
    """Of 64 patches in 16 groups eight whole ones, where there is room for a part of a ninth."""
    kept = IN_GROUPS[name](torch.randn(64, 4), 35).tolist()
    assert len(kept) == 32 and kept == sorted({*kept})
    for place in kept:
        row, column = place // 16 * 2, place % 8 // 2 * 2
        assert {8 * (row + y) + column + x for y in (0, 1) for x in (0, 1)} <= {*kept}


@pytest.mark.parametrize("name", [name for name in IN_GROUPS if not name.startswith("scattered")])
def test_group_with_one_thing_in_it_stays_whole(name):
    states = torch.tensor([1.0, 0.0]).repeat(64, 1)
    states[18] = torch.tensor([0.0, 9])
    assert {18, 19, 26, 27} <= {*IN_GROUPS[name](states, 32).tolist()}


def test_groups_of_a_chessboard():
    assert rows_of(IN_GROUPS["scattered, 2x2 groups"](torch.zeros(16, 1), 8)) == [
        *["xx..", "xx..", "..xx", "..xx"],
    ]
