"""Greedy MAP in a video: no frame is left with less than its floor, and the rest competes."""

import numpy as np
import pytest
import torch

from vllm_script.kernels import Pool, unit_rows

from .ops import greedy_map

# a and b are the same; d is orthogonal to them; c lies between: cos(a, c) = 0.6, cos(c, d) = 0.8.
A, B, C, D = [1.0, 0.0], [1.0, 0.0], [0.6, 0.8], [0.0, 1.0]
# Frames of three: A and B are the same, C lies between A and D, which are orthogonal.
FRAMES = [A, B, C, D, D, C]


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize(
    "floors, budget, expected",
    [
        # Residuals 1 1 1 1 1 1: A, and its frame has enough. In the other D has 1, C 0.64: D. All
        # is spanned, and equal weight fills: what is left, in order.
        ([1, 1], 2, [0, 3]),
        ([1, 1], 4, [0, 3, 1, 2]),
        # A, then D, and the second frame has enough; the first one fills up.
        ([3, 1], 4, [0, 3, 1, 2]),
        # The first frame may not have any of the certain two: D, then C, with 0.36 left.
        ([0, 2], 2, [3, 5]),
        ([0, 2], 3, [3, 5, 0]),
        # Nothing is certain, and all compete from the first pick on.
        ([0, 0], 3, [0, 3, 1]),
        # D twice is spanned when its turn comes, and is taken all the same.
        ([0, 3], 3, [3, 5, 4]),
    ],
)
def test_greedy_map_floors_by_hand(floors, budget, expected, backend):
    picks = greedy_map(torch.tensor(FRAMES), None, budget, floors=floors, backend=backend)
    assert picks.tolist() == expected


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_greedy_map_floors_fill_by_relevance(backend):
    """The second frame is the first once more, so its certain picks are spanned by those."""
    frame = torch.eye(4)
    relevance = torch.tensor([0.9, 1.0, 0.8, 0.7, 0.3, 0.2, 0.5, 0.4])
    picks = greedy_map(
        torch.cat([frame, frame]), relevance, 8, floors=[4, 2], backend=backend
    ).tolist()
    assert picks[:6] == [1, 0, 2, 3, 6, 7]
    assert picks[6:] == [4, 5]


def test_greedy_map_floors_of_zero_beside_a_frame_of_small_relevance():
    """What is rounding is told from each token's own relevance, whatever was picked first."""
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        rows, relevance = (
            torch.randn(32, 8, generator=generator),
            torch.rand(32, generator=generator),
        )
        relevance[16:] *= 1e-3
        ours, expected = (
            greedy_map(rows, relevance, 12, floors=[0, 8], backend=backend)
            for backend in ("triton", "torch")
        )
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("floors", [[2, 5, 3, 2], [1, 1, 1, 1], [0, 0, 9, 3]])
def test_greedy_map_floors_take_the_best_at_every_step(floors):
    """Step by step: of frames below their floor as long as there are any, then of all."""
    generator = torch.Generator().manual_seed(0)
    size, budget = 10, 16
    rows, relevance = torch.randn(40, 24, generator=generator), torch.rand(40, generator=generator)
    pool_rows = torch.cat([torch.arange(9) + 10 * frame for frame in range(4)])
    pool = Pool(torch.cat([pool_rows, torch.full((4,), 2**62)]), torch.tensor([36]))
    unit = unit_rows(rows).double()
    kernel = relevance[:, None] * (unit @ unit.T) * relevance
    for backend in ("torch", "triton"):
        picks = greedy_map(
            rows, relevance, budget, pool=pool, floors=floors, backend=backend
        ).tolist()
        assert len(set(picks)) == budget and set(picks) <= set(pool_rows.tolist())
        room = list(floors)
        for step, pick in enumerate(picks):
            rest = [row for row in pool_rows.tolist() if row not in picks[:step]]
            if step < sum(floors):
                rest = [row for row in rest if room[row // size] > 0]
                room[pick // size] -= 1
            sets = [[*picks[:step], row] for row in rest]
            determinants = [torch.linalg.det(kernel[s][:, s]).item() for s in sets]
            assert rest[int(np.argmax(determinants))] == pick


@pytest.mark.parametrize(
    "floors, message",
    [
        ([1, 1, 1], r"floors must be in \[0, 1\], one for each of frames that share 4 rows"),
        ([3, 0], r"floors must be in \[0, 2\]"),
        ([], "floors must be"),
        ([2, 1], "add up to at most the budget 2, got 3"),
    ],
)
def test_greedy_map_floors_error(floors, message):
    with pytest.raises(ValueError, match=message):
        greedy_map(torch.eye(4), None, 2, floors=floors)


def test_greedy_map_floors_are_of_one_video():
    with pytest.raises(ValueError, match="the frames of one video, got 2 images"):
        greedy_map(torch.eye(4), None, [1, 1], lengths=[2, 2], floors=[1, 1])
