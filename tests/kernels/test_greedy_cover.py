"""Greedy coverage: by hand, against its definition, and both backends against float64."""

import sys

import pytest
import torch

from vllm_script.kernels import greedy_cover
from vllm_script.kernels.testing import assert_cover

from .ops import similarity_of

MODULE = sys.modules["vllm_script.kernels.greedy_cover"]  # the package's own is the function
BACKENDS = ("torch", "triton")


def picked(x, budgets, weight=None, lengths=None, backend="torch"):
    return greedy_cover(similarity_of(x, lengths, backend=backend), budgets, weight)


# Three axes as tokens: equal letters have cosine 1, different ones 0.
LETTERS = torch.eye(3)[[ord(letter) - ord("A") for letter in "BAAACABC"]]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "weight, expected",
    [
        # Each row's cover adds up to one: four of A need as much as two of B or of C.
        (None, [1, 0, 4, 2]),
        ([9.0, 1, 1, 1, 8, 1, 9, 8], [0, 4, 1, 2]),
        ([0.0, 0, 0, 0, 0, 0, 0, 1], [4, 0, 1, 2]),
        ([2e38, 1e36, 1e36, 1e36, 1e38, 1e36, 2e38, 1e38], [0, 4, 1, 2]),
    ],
)
def test_by_hand(weight, expected, backend):
    weight = None if weight is None else torch.tensor(weight)
    for budget in (1, 3, 4):
        assert picked(LETTERS, [budget], weight, backend=backend).tolist() == expected[:budget]


@pytest.mark.parametrize("backend", BACKENDS)
def test_constant_weights_are_none(backend):
    rows = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    expected = picked(rows, [10], backend=backend)
    for value in (0.0, 1e-30, 3.0):
        assert torch.equal(picked(rows, [10], torch.full((40,), value), backend=backend), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("num_tokens, dim, budget", [(1, 1, 1), (63, 100, 63), (200, 64, 40)])
def test_every_pick_covers_most(num_tokens, dim, budget, dtype, weighted, backend):
    generator = torch.Generator().manual_seed(0)
    rows = (torch.randn(2 * num_tokens, dim, generator=generator) + 0.5).to(dtype)[::2]
    weight = torch.rand(num_tokens, generator=generator) if weighted else None
    picks = picked(rows, [budget], weight, backend=backend)
    assert picks.dtype == torch.int64 and len(picks) == budget
    assert len(set(picks.tolist())) == budget
    assert_cover(rows, weight, picks)


@pytest.mark.parametrize("content", ["noise", "copies", "rank 2", "zeros"])
@pytest.mark.parametrize("weighted", [False, True])
def test_to_be_lazy_changes_nothing(content, weighted):
    """The reference picks what all gains, each computed at every step, would have it pick."""
    generator = torch.Generator().manual_seed(1)
    rows = {
        "noise": lambda: torch.randn(150, 32, generator=generator),
        "copies": lambda: torch.randn(9, 32, generator=generator)[torch.arange(150) % 9],
        "rank 2": lambda: torch.randn(150, 2, generator=generator),
        "zeros": lambda: torch.zeros(150, 4),
    }[content]()
    weight = torch.rand(150, generator=generator) if weighted else torch.ones(150)
    every = torch.arange(150)
    cosines = similarity_of(rows, backend="torch").block(0, every, every)
    likeness = cosines.masked_fill(cosines > MODULE.COPY, 1).sub_(1)
    likeness = likeness.div_(MODULE.TEMPERATURE).exp_()
    need = weight / weight.max() / likeness.sum(1) if weighted else weight / likeness.sum(1)
    covered, is_left, expected = torch.zeros(150), torch.ones(150, dtype=torch.bool), []
    for _ in range(40):
        gains = (likeness - covered).clamp_(min=0).mul_(need).sum(1)
        pick = int(gains.masked_fill(~is_left, -1).argmax())
        expected.append(pick)
        is_left[pick] = False
        covered = torch.maximum(covered, likeness[pick])
    assert picked(rows, [40], weight, backend="torch").tolist() == expected


@pytest.mark.parametrize("backend", BACKENDS)
def test_images_do_not_depend_on_each_other(backend):
    lengths, budgets = [50, 1, 90], [7, 1, 30]
    generator = torch.Generator().manual_seed(0)
    rows, weight = torch.randn(141, 24, generator=generator), torch.rand(141, generator=generator)
    together = picked(rows, budgets, weight, lengths, backend)
    alone = [
        first + picked(own, [budget], its_weight, backend=backend)
        for first, own, its_weight, budget in zip(
            [0, 50, 51], rows.split(lengths), weight.split(lengths), budgets, strict=True
        )
    ]
    assert torch.equal(together, torch.cat(alone))


def test_errors():
    with pytest.raises(ValueError, match=r"budget must be in \[1, 8\], got 9"):
        picked(LETTERS, [9])
