"""A tower that is thinned by the hook is the tower run on fewer rows."""

import pytest
import torch
from torch import nn

from vllm_script.benchmarks.thinning.hook import Cut, thinned_after
from vllm_script.server.aliases import SCRIPT_DEMO, repository_of


@pytest.fixture(scope="module")
def clip():
    """script-demo's vision tower."""
    from transformers import CLIPVisionModel

    return CLIPVisionModel.from_pretrained(f"{repository_of(SCRIPT_DEMO)}/clip").eval()


@torch.no_grad()
def test_rest_of_the_tower_runs_on_the_survivors(clip):
    """Two pictures, two ways each: the layers after the cut, called one by one, say the same."""
    blocks = clip.encoder.layers
    pixels = torch.rand(2, 3, 112, 112)
    whole = clip(pixels, output_hidden_states=True).hidden_states
    ways = [torch.arange(0, 196, 2), torch.arange(98)]
    with thinned_after(blocks, 2, 196, lambda states: ways) as chosen:
        thinned = clip(pixels, output_hidden_states=True).hidden_states
    assert [len(own) for own in chosen] == [2, 2]
    assert [len(each) for each in thinned] == [2, 2, 2, 4, 4, 4]
    for picture in range(2):
        for place, kept in enumerate(ways):
            states = whole[2][picture, torch.cat([torch.tensor([0]), 1 + kept])][None]
            for layer in blocks[2:4]:
                states = layer(states, None)
                states = states[0] if isinstance(states, tuple) else states
            assert torch.allclose(thinned[4][2 * picture + place], states[0], atol=1e-5)
    again = clip(pixels, output_hidden_states=True).hidden_states
    assert torch.equal(again[4], whole[4])  # the hook is gone


def test_score_sees_the_patches_alone():
    blocks = nn.ModuleList([nn.Identity(), nn.Identity()])
    states = torch.arange(12.0).view(1, 6, 2)
    seen = []
    with thinned_after(blocks, 1, 4, lambda own: seen.append(own) or [torch.tensor([1, 3])]):
        found = blocks[1](blocks[0](states))
    assert torch.equal(seen[0], states[0, 2:])
    assert torch.equal(found, states[:, [0, 1, 3, 5]])


def test_hook_goes_away_after_an_error():
    blocks = nn.ModuleList([nn.Identity(), nn.Identity()])
    with pytest.raises(ZeroDivisionError), thinned_after(blocks, 1, 4, lambda own: 1 / 0):
        blocks[1](torch.zeros(1, 4, 1))
    assert torch.equal(blocks[1](torch.zeros(1, 4, 1)), torch.zeros(1, 4, 1))


def test_cut():
    assert (str(Cut(3, 0.5)), Cut(3, 0.75).count(576)) == ("0.5 after layer 3", 432)
