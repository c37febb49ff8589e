"""Script and its two halves, by hand and held against each other."""

import torch

from vllm_script import select_visual_tokens
from vllm_script.kernels import cosine_similarity, reduce_graph
from vllm_script.pruning import PruningParams, run_mode

generator = torch.Generator().manual_seed(0)
TOKENS = torch.randn(101, 32, generator=generator) + 0.5
RELEVANCE = torch.rand(101, generator=generator)


def test_script_selects_inside_the_pool():
    kept = select_visual_tokens(TOKENS, 50, relevance=RELEVANCE, pool_ratio=0.5)
    similarity = cosine_similarity([TOKENS])
    rows, counts = reduce_graph(similarity, [51], tau=0.1, tau_relative=True, gamma=1.0)
    pool = rows[: counts[0]]
    inside = select_visual_tokens(TOKENS[pool], 50, relevance=RELEVANCE[pool], mode="cdpruner")
    assert len(pool) == 51  # 50.5 rounds up
    assert torch.equal(kept, pool[inside])


def test_script_with_the_whole_pool_is_cdpruner():
    kept = select_visual_tokens(TOKENS, 20, relevance=RELEVANCE, pool_ratio=1.0)
    assert torch.equal(kept, select_visual_tokens(TOKENS, 20, relevance=RELEVANCE, mode="cdpruner"))


def test_script_with_the_smallest_pool_is_gsp():
    kept = select_visual_tokens(TOKENS, 60, relevance=RELEVANCE, pool_ratio=0.0)
    assert torch.equal(kept, select_visual_tokens(TOKENS, 60, mode="gsp"))


# Three axes as tokens: equal letters have cosine 1, different ones 0.
LETTERS = torch.eye(3)[[ord(letter) - ord("A") for letter in "AAABCABC"]]
PARAMS = PruningParams(tau=0.5, tau_relative=False, gamma=0.0)


def test_gsp_is_the_reduced_graph():
    # Worked by hand in tests/kernels/test_reduce_graph.py.
    assert run_mode(LETTERS, 5, None, "gsp", PARAMS).tolist() == [1, 4, 5, 6, 7]


def test_gsp_fills_from_survivors_by_diversity():
    # The graph runs out of edges at 1A 4C 6B 7C. Greedy MAP takes one of each letter.
    assert run_mode(LETTERS, 3, None, "gsp", PARAMS).tolist() == [1, 4, 6]
