"""Selection in one encoded item, by hand."""

from dataclasses import replace

import pytest
import torch

from vllm_script.config import ScriptConfig
from vllm_script.layout import Layout
from vllm_script.plan import make_plan
from vllm_script.pruning import select_visual_tokens
from vllm_script.worker.encoded_image import EncodedImage, Survivors
from vllm_script.worker.selector import Selector

WIDTH = 8
QUERY = (((3, 4),),)


@pytest.fixture
def image():
    """Twelve patches in rows of three with a newline behind each, in another order than encoded."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.tensor([11, 10, 9, -1, 8, 7, 6, -1, 5, 4, 3, -1, 2, 1, 0, -1])
    features = torch.randn(12, 2 * WIDTH, generator=generator)  # half is for later layers
    return EncodedImage(torch.randn(12, 3, generator=generator), features, Layout(rows))


def plan(query=QUERY, **settings):
    return make_plan(ScriptConfig(visual_token_budget=4, **settings), query)


def test_rows_of_the_features_are_selected_by_what_enters_the_first_layer(image):
    selector = Selector(WIDTH, embed=None, clip=None)
    (selection,) = selector.select([image], [plan(relevance="none", mode="divprune")])
    candidates = image.layout.candidates
    expected = select_visual_tokens(image.features[candidates][:, :WIDTH], 4, mode="divprune")
    assert selection.kept.tolist() == candidates[expected].tolist()
    assert selection.relevance is None


def test_of_a_thinned_tower_the_survivors_are_selected_from(image):
    """Patches 1, 4, 5, 8, 9 and 11 of the encoder's order, which is not the reading order."""
    left = Survivors(torch.tensor([1, 4, 5, 8, 9, 11]), 6)
    thinned = replace(image, states=image.states[:6], features=image.features[:6], survivors=left)
    table = torch.eye(WIDTH)
    selector = Selector(WIDTH, embed=lambda token_ids: table[token_ids], clip=None)
    (selection,) = selector.select([thinned], [plan(relevance="embedding", mode="cdpruner")])
    assert selection.candidates.tolist() == [11, 9, 8, 5, 4, 1]
    alone = EncodedImage(
        thinned.states, thinned.features, Layout(torch.tensor([5, 4, 3, 2, 1, 0] + 10 * [-1]))
    )
    (expected,) = selector.select([alone], [plan(relevance="embedding", mode="cdpruner")])
    assert torch.equal(selection.relevance, expected.relevance) and expected.candidates is None
    assert selection.kept.tolist() == left.patches[expected.kept].tolist()


def test_embedding_relevance_reads_the_query(image):
    table = torch.eye(WIDTH)
    selector = Selector(WIDTH, embed=lambda token_ids: table[token_ids], clip=None)
    (selection,) = selector.select([image], [plan(relevance="embedding")])
    tokens = torch.nn.functional.normalize(image.features[image.layout.candidates][:, :WIDTH])
    cosine = tokens[:, [3, 4]].mean(1)
    assert selection.relevance.argsort().tolist() == cosine.argsort().tolist()


def test_what_one_of_several_questions_asks_for_is_relevant(image):
    table = torch.eye(WIDTH)
    selector = Selector(WIDTH, embed=lambda token_ids: table[token_ids], clip=None)
    one, other = ((3, 4),), ((6,),)
    alone = [
        selector.select([image], [plan((question,), relevance="embedding")])[0].relevance
        for question in (one, other)
    ]
    (both,) = selector.select([image], [plan((one, other), relevance="embedding")])
    assert torch.equal(both.relevance, torch.maximum(*alone))


def test_clip_relevance_reads_the_states_of_the_candidates(image):
    seen = []

    def clip(states, query):
        seen.append((states, query))
        return torch.arange(12.0)

    selector = Selector(WIDTH, embed=None, clip=clip)
    (selection,) = selector.select([image], [plan(relevance="clip", clip_digest="its own")])
    ((states, query),) = seen
    assert torch.equal(states, image.states[image.layout.candidates]) and query == QUERY
    assert selection.relevance.tolist() == list(range(12))
    assert len(selection.kept) == 4
