import pytest
import torch

from vllm_script import select_visual_tokens


@pytest.mark.parametrize(
    "num_tokens, budget, expected",
    [(10, 1, [5]), (10, 2, [2, 7]), (9, 3, [1, 4, 7]), (5, 4, [0, 1, 3, 4]), (3, 3, [0, 1, 2])],
)
def test_uniform(num_tokens, budget, expected):
    kept = select_visual_tokens(torch.zeros(num_tokens, 1), budget, mode="uniform")
    assert kept.tolist() == expected


def test_random_depends_on_seed_and_sizes_only():
    torch.manual_seed(1)
    kept = select_visual_tokens(torch.zeros(100, 4), 10, mode="random", seed=5)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = select_visual_tokens(torch.ones(100, 7), 10, mode="random", seed=5)
    assert torch.equal(kept, again)
    assert torch.equal(before, torch.get_rng_state())
