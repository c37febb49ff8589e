import torch
from torch.nn.functional import normalize

from vllm_script import select_visual_tokens

GENERATOR = torch.Generator().manual_seed(0)
TOKENS, RELEVANCE = torch.randn(40, 16, generator=GENERATOR), torch.rand(40, generator=GENERATOR)


def test_mmr_equals_its_definition():
    similarity = normalize(TOKENS) @ normalize(TOKENS).T
    importance = (RELEVANCE - RELEVANCE.min()) / (RELEVANCE.max() - RELEVANCE.min())
    picks = [int(importance.argmax())]
    for _ in range(11):
        score = 0.5 * importance - 0.5 * similarity[:, picks].amax(1)
        score[picks] = -torch.inf
        picks.append(int(score.argmax()))
    kept = select_visual_tokens(TOKENS, 12, relevance=RELEVANCE, mode="mmr")
    assert kept.tolist() == sorted(picks)


def test_the_scale_of_relevance_does_not_matter():
    kept = select_visual_tokens(TOKENS, 12, relevance=RELEVANCE, mode="mmr")
    for scale in (1e-30, 1e30):
        again = select_visual_tokens(TOKENS, 12, relevance=scale * RELEVANCE, mode="mmr")
        assert torch.equal(kept, again)


def test_without_a_question_it_is_divprune():
    kept = select_visual_tokens(TOKENS, 12, mode="mmr")
    assert torch.equal(kept, select_visual_tokens(TOKENS, 12, mode="divprune"))
