import torch

from vllm_script import select_visual_tokens
from vllm_script.kernels import reduce_graph

generator = torch.Generator().manual_seed(0)
TOKENS = torch.randn(101, 32, generator=generator) + 0.5
RELEVANCE = torch.rand(101, generator=generator)


def test_script_selects_inside_the_pool():
    kept = select_visual_tokens(TOKENS, 50, relevance=RELEVANCE, pool_ratio=0.5)
    rows, counts = reduce_graph(TOKENS, 51, tau=0.1, tau_relative=True, gamma=1.0)
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
