"""Which places of a grid stay where a vision tower is thinned."""

import pytest
import torch

from vllm_script.budget import num_survivors
from vllm_script.pruning.thinning import survivors


def pictures(frames, rows, columns, count):
    """Frames as lists of rows, # for what stays."""
    mask = torch.zeros(frames * rows * columns, dtype=torch.bool)
    mask[survivors(frames, rows, columns, count).flatten()] = True
    return [
        ["".join(".#"[stays] for stays in row) for row in frame]
        for frame in mask.view(frames, rows, columns).tolist()
    ]


@pytest.mark.parametrize(
    ("rows", "columns", "count", "frame"),
    [
        (2, 4, 4, ["#.#.", ".#.#"]),
        (3, 3, 5, ["#.#", ".#.", "#.#"]),
        (3, 4, 3, ["#...", "...#", "#..."]),
        (2, 4, 6, ["#.##", "##.#"]),
        (1, 5, 1, ["#...."]),
        (2, 2, 4, ["##", "##"]),
    ],
)
def test_by_hand(rows, columns, count, frame):
    assert pictures(1, rows, columns, count) == [frame]


def test_half_of_each_of_two_frames_is_all_of_a_place():
    first, second, third = pictures(3, 4, 6, 12)
    assert first == third == ["#.#.#.", ".#.#.#"] * 2
    assert second == [".#.#.#", "#.#.#."] * 2


@pytest.mark.parametrize("keep", [0.01, 0.25, 0.3, 0.5, 0.75, 0.99, 1.0])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 7), (5, 1), (6, 6), (7, 5), (24, 24)])
def test_every_frame_keeps_as_many_and_every_stretch_its_part(rows, columns, keep):
    size = rows * columns
    count = num_survivors(size, keep)
    left = survivors(4, rows, columns, count)
    assert left.shape == (4, count) and (left.diff(dim=1) > 0).all()
    places = left - torch.arange(4)[:, None] * size
    assert places.min() >= 0 and places.max() < size
    stays = torch.zeros(4, size)
    stays.scatter_(1, places, 1)
    of_rows = stays.view(4, rows, columns).sum(2)
    assert (of_rows - columns * count / size).abs().max() < 1
