"""Pools as masks, and masks as pools."""

import torch

from vllm_script.kernels import Pool
from vllm_script.pruning.pools import layout_of, mask_of, pool_of

CPU = torch.device("cpu")
LENGTHS = [4, 1, 3]
MASK = torch.tensor([0, 1, 0, 1, 0, 1, 1, 1]).bool()


def test_layout():
    layout = layout_of(LENGTHS, CPU)
    assert layout.part.tolist() == [0, 0, 0, 0, 1, 2, 2, 2]
    assert layout.place.tolist() == [0, 1, 2, 3, 0, 0, 1, 2]
    assert layout.first.tolist() == [0, 4, 5]
    assert layout.last.tolist() == [3, 4, 7]


def test_pool_of_a_mask():
    rows, counts = pool_of(MASK, layout_of(LENGTHS, CPU))
    assert counts.tolist() == [2, 0, 3]
    assert rows[:2].tolist() == [1, 3] and rows[5:].tolist() == [5, 6, 7]


def test_mask_of_a_pool():
    """What stands behind the rows of an image may be any rows, also those of another."""
    pool = Pool(torch.tensor([1, 3, 7, 0, 2, 5, 6, 7]), torch.tensor([2, 0, 3]))
    assert torch.equal(mask_of(pool, layout_of(LENGTHS, CPU)), MASK)


def test_mask_of_the_pool_of_windows():
    """Rows of a window stand in its order, and are those of the one item that there is."""
    pool = Pool(torch.tensor([4, 0, 2, 1, 3, 5]), torch.tensor([2, 2]))
    mask = mask_of(pool, layout_of([3, 3], CPU))
    assert mask.tolist() == [True, True, False, True, True, False]
