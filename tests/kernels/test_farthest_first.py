"""Farthest-first traversal: by hand, and both backends against float64."""

import pytest
import torch

from vllm_script.kernels import farthest_first
from vllm_script.kernels.testing import assert_farthest

from .ops import similarity_of

BACKENDS = ("torch", "triton")


def picked(x, budgets, weight=None, bonus=None, lengths=None, backend="torch"):
    return farthest_first(similarity_of(x, lengths, backend=backend), budgets, weight, bonus)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "weight, bonus, expected",
    [
        (None, None, [3, 1, 2, 0]),
        ([1.0, 0.0, 0.1, 0.0], None, [3, 0, 2, 1]),
        (None, [0.0, 0.1, 1.0, 0.0], [2, 3, 0, 1]),
        # After 2 the others add 1, 0.83 and 1.34 times their weights.
        ([1.0, 1.0, 1.0, 0.1], [0.0, 0.3, 1.0, 0.0], [2, 1, 3, 0]),
    ],
)
def test_by_hand(weight, bonus, expected, backend):
    """Tokens at 0, 10, 90 and 200 degrees. Nearest neighbours are 10, 10, 80 and 110 away."""
    angle = torch.tensor([0.0, 10.0, 90.0, 200.0]).deg2rad()
    rows = torch.stack([angle.cos(), angle.sin()], dim=1)
    weight, bonus = (None if own is None else torch.tensor(own) for own in (weight, bonus))
    for budget in (1, 2, 4):
        picks = picked(rows, [budget], weight, bonus, backend=backend)
        assert picks.tolist() == expected[:budget]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("by", ["distance", "weight", "bonus"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("num_tokens, dim, budget", [(1, 1, 1), (63, 100, 63), (200, 64, 40)])
def test_every_pick_is_the_farthest(num_tokens, dim, budget, dtype, by, backend):
    generator = torch.Generator().manual_seed(0)
    rows = (torch.randn(2 * num_tokens, dim, generator=generator) + 0.5).to(dtype)[::2]
    values = torch.rand(num_tokens, generator=generator)
    weight, bonus = (values if by == own else None for own in ("weight", "bonus"))
    picks = picked(rows, [budget], weight, bonus, backend=backend)
    assert picks.dtype == torch.int64 and len(picks) == budget
    assert_farthest(rows, weight, picks, bonus)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_go_to_the_lowest_index(backend):
    """Three axes that repeat, and rows without length, which are at 90 degrees to all."""
    rows = torch.eye(3)[torch.tensor([0, 0, 1, 2, 1, 2])]
    rows[3] = 0.0
    picks = picked(rows, [6], backend=backend)
    # 3 and 5 have no copy; then 0 and 2 do; what is left is at no distance.
    assert picks.tolist() == [3, 0, 2, 5, 1, 4]
    assert picked(torch.ones(5, 3), [4], backend=backend).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("backend", BACKENDS)
def test_images_do_not_depend_on_each_other(backend):
    lengths, budgets = [50, 1, 90], [7, 1, 30]
    generator = torch.Generator().manual_seed(0)
    rows, weight = torch.randn(141, 24, generator=generator), torch.rand(141, generator=generator)
    together = picked(rows, budgets, weight, lengths=lengths, backend=backend)
    alone = [
        first + picked(own, [budget], its_weight, backend=backend)
        for first, own, its_weight, budget in zip(
            [0, 50, 51], rows.split(lengths), weight.split(lengths), budgets, strict=True
        )
    ]
    assert torch.equal(together, torch.cat(alone))


def test_errors():
    with pytest.raises(ValueError, match=r"budget must be in \[1, 4\], got 5"):
        picked(torch.eye(4), [5])
    with pytest.raises(ValueError, match="a budget for each of 1 images"):
        picked(torch.eye(4), [1, 1])
