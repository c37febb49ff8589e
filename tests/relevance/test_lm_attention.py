"""Relevance by the first layer of a language model, against the formula head by head."""

import pytest
import torch
from torch import nn

from vllm_script.kernels import normalize_relevance
from vllm_script.relevance import lm_attention
from vllm_script.relevance.lm_attention import FirstLayer, LmAttention

WIDTH, SIZE = 24, 8


def of_random_weights(num_heads, num_kv_heads, head_norms=False):
    """A first layer [WIDTH -> heads of SIZE], and its projection, which has a bias."""
    torch.manual_seed(0)
    projection = nn.Linear(WIDTH, (num_heads + 2 * num_kv_heads) * SIZE)
    norm = nn.RMSNorm(WIDTH)
    norms = [nn.RMSNorm(SIZE), nn.RMSNorm(SIZE)] if head_norms else [None, None]
    for each in filter(None, [norm, *norms]):
        nn.init.uniform_(each.weight, 0.5, 2)
    return FirstLayer(norm, projection, num_heads, num_kv_heads, SIZE, *norms), projection


def rows(count, seed):
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


def scores_by_hand(layer, projection, tokens, question):
    """Head by head, pair by pair: the score of each visual token."""
    names = [*range(layer.num_heads), *range(layer.num_kv_heads)]

    def head(of, index, norm):
        weight = projection.weight[index * SIZE : (index + 1) * SIZE]
        bias = projection.bias[index * SIZE : (index + 1) * SIZE]
        found = layer.norm(of) @ weight.T + bias
        return found if norm is None else norm(found)

    scores = torch.zeros(len(tokens), dtype=torch.float64)
    for index in names[: layer.num_heads]:
        key_head = layer.num_heads + index // (layer.num_heads // layer.num_kv_heads)
        queries = head(question, index, layer.query_norm)
        keys = head(tokens, key_head, layer.key_norm)
        match = (queries.double() @ keys.double().T / SIZE**0.5).mean(0)
        scores += match / match.norm()
    return scores


@pytest.mark.parametrize("chunk", [1024, 5])
@pytest.mark.parametrize("head_norms", [False, True])
@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(4, 4), (6, 2), (4, 1)])
@torch.no_grad()
def test_the_formula(num_heads, num_kv_heads, head_norms, chunk, monkeypatch):
    monkeypatch.setattr(lm_attention, "CHUNK", chunk)
    layer, projection = of_random_weights(num_heads, num_kv_heads, head_norms)
    tokens, questions = rows(37, 1), [rows(7, 2), rows(3, 3)]
    found = LmAttention(layer, lambda scores: scores)(tokens, questions)
    expected = [
        normalize_relevance(scores_by_hand(layer, projection, tokens, question))
        for question in questions
    ]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), torch.maximum(*expected), atol=2e-6, rtol=0)


@torch.no_grad()
def test_a_high_match_is_relevant():
    """A visual token that is a word of the question matches it where keys are queries."""
    layer, projection = of_random_weights(3, 3)
    projection.weight[3 * SIZE : 6 * SIZE] = projection.weight[: 3 * SIZE]
    projection.bias.zero_()
    question, tokens = rows(1, 2), rows(20, 1)
    tokens[13] = question
    found = LmAttention(layer, lambda scores: scores)(tokens, [question])
    assert found.argmax() == 13


@torch.no_grad()
def test_a_token_that_is_no_number_spoils_no_other():
    layer, _ = of_random_weights(4, 2)
    score = LmAttention(layer, lambda scores: scores)
    tokens = rows(9, 1)
    tokens[2, 3], tokens[5, 0] = torch.nan, torch.inf
    found = score(tokens, [rows(4, 2)])
    kept = [0, 1, 3, 4, 6, 7, 8]
    alone = score(tokens[kept], [rows(4, 2)])
    assert found.isfinite().all() and found.min() >= 0
    assert found[kept].argsort().tolist() == alone.argsort().tolist()


@torch.no_grad()
def test_tokens_that_are_all_alike_say_nothing():
    layer, _ = of_random_weights(4, 2)
    tokens = rows(1, 1).expand(6, WIDTH)
    found = LmAttention(layer, lambda scores: scores)(tokens, [rows(4, 2)])
    assert torch.equal(found, torch.ones(6))
