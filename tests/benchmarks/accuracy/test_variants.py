"""The variants keep as many tokens as the default, and differ from it in what they say."""

import pytest
import torch

from vllm_script import select_visual_tokens
from vllm_script.benchmarks.accuracy.variants import DEFAULT, VARIANTS, select

GENERATOR = torch.Generator().manual_seed(0)
TOKENS = torch.randn(120, 16, generator=GENERATOR) + 1
RELEVANCE = torch.rand(120, generator=GENERATOR)
TILES = torch.arange(120) // 50


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
@pytest.mark.parametrize("budget", [1, 13, 119])
def test_budget(variant, budget):
    kept = select(variant, TOKENS, budget, RELEVANCE, TILES)
    assert kept.tolist() == sorted(set(kept.tolist())) and len(kept) == budget


def test_default_is_the_plugins():
    kept = select(DEFAULT, TOKENS, 13, RELEVANCE, TILES)
    assert torch.equal(kept, select_visual_tokens(TOKENS, 13, relevance=RELEVANCE))


def test_tiles_have_equal_shares():
    (variant,) = (variant for variant in VARIANTS if variant.per_tile)
    kept = select(variant, TOKENS, 90, RELEVANCE, TILES)
    assert TILES[kept].bincount().tolist() == [35, 35, 20]


def test_names_are_unique():
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)
