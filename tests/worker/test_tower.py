"""A tower whose later blocks see survivors alone: its weights are shared, it stays as it is."""

import torch
from torch import nn

from vllm_script.layout import Layout, Tiles
from vllm_script.pruning.thinning import Quota, most_distinct_patches, survivors
from vllm_script.worker.encoded_image import EncodedImage, Survivors
from vllm_script.worker.tower import (
    Thinning,
    num_early_blocks_of,
    survivors_of,
    take_of_tiles,
    thinned_tower,
)


class Block(nn.Module):
    """Adds its weight times the mean of all states, and what it is told besides."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, states, *, more):
        return states + self.weight * states.mean(1, keepdim=True) + more


class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.blocks = nn.ModuleList([Block(1.0), Block(2.0), Block(3.0)])
        self.seen = []

    def forward(self, states, more):
        for block in self.encoder.blocks:
            states = block(states, more=more)
            self.seen.append(states.shape[1])
        return states


@torch.no_grad()
def test_later_blocks_see_the_survivors_alone():
    tower = Tower()
    states, left = torch.rand(1, 6, 2), [0, 3, 4]
    thin = thinned_tower(
        tower,
        "encoder.blocks",
        1,
        lambda states: states[:, left],
        lambda number, kwargs: {"more": kwargs["more"] * number},
    )
    first, second, third = tower.encoder.blocks
    expected = first(states, more=10.0)[:, left]
    expected = third(second(expected, more=10.0), more=20.0)
    assert torch.equal(thin(states, 10.0), expected)
    assert tower.seen == [6, 3, 3]
    assert list(tower.encoder.blocks) == [first, second, third]
    second.weight.fill_(7.0)  # as a reload of weights does
    assert not torch.equal(thin(states, 10.0), expected)


def thinning_to(left):
    """A thinning that leaves these, and keeps what it has chosen by."""
    thinning = Thinning(None, None, 1, "torch")
    thinning.choose = lambda tokens: thinning.__dict__.update(seen=tokens) or torch.tensor(left)
    return thinning


def test_survivors_of_tiles():
    """Three tiles of a class token and two by two visual tokens, each of one patch or of two."""
    thinning = thinning_to([[0, 3], [5, 6], [8, 11]])
    one_by_one = take_of_tiles(thinning, torch.arange(4)[:, None], first=1)
    states = torch.arange(3 * 5.0).view(3, 5, 1)
    assert one_by_one(states).flatten(1).tolist() == [[0, 1, 4], [5, 7, 8], [10, 11, 14]]
    assert thinning.seen.flatten(1).tolist() == [[1, 2, 3, 4], [6, 7, 8, 9], [11, 12, 13, 14]]
    cells = torch.tensor([[0, 4], [1, 5], [2, 6], [3, 7]])
    states = torch.arange(3 * 8.0).view(3, 8, 1)
    pairs = take_of_tiles(thinning, cells, first=0)
    assert pairs(states).flatten(1).tolist() == [[0, 4, 3, 7], [9, 13, 10, 14], [16, 20, 19, 23]]
    assert thinning.seen[0].flatten(1).tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]


def test_a_thinning_knows_what_it_left():
    quota = Quota(2, torch.ones(3, 4, dtype=torch.bool), False)
    thinning = Thinning(Layout(torch.arange(12)), quota, 1, "torch")
    states = torch.rand(3, 4, 5, 8)
    chosen = thinning.choose(states)
    assert torch.equal(chosen, survivors(most_distinct_patches(states), quota))
    assert thinning.survivors.patches.tolist() == chosen.flatten().tolist()
    assert survivors_of(None) is None and survivors_of(thinning).num_candidates == 6


def test_num_early_blocks():
    shares = {0.01: 1, 0.25: 6, 1 / 6: 4, 0.5: 12, 1.0: 23}
    assert {share: num_early_blocks_of(share, 24) for share in shares} == shares
    assert num_early_blocks_of(0.25, 2) == 1


def test_rows_of_survivors():
    """Of two tiles of three patches; a newline and what was dropped are no rows of the features."""
    layout = Layout(torch.tensor([4, -1, 0, 1, 2, -1]))
    quota = layout.quota(Tiles(3, 3), 0.67)
    assert (quota.each, quota.num_left) == (2, 3)
    assert quota.can_be_kept.tolist() == [[True] * 3, [False, True, False], [False] * 3]
    left = Survivors(torch.tensor([0, 2, 3, 4]), 3)
    image = EncodedImage.without_states(torch.arange(4.0)[:, None], layout, left)
    assert image.candidates.tolist() == [4, 0, 2]
    assert image.rows_of(image.candidates).tolist() == [3, 0, 1]
    whole = EncodedImage.without_states(torch.arange(6.0)[:, None], layout)
    assert whole.candidates.tolist() == [4, 0, 1, 2]
    assert whole.rows_of(whole.candidates).tolist() == [4, 0, 1, 2]


def test_frames_of_a_video_are_joined_and_tiles_are_not():
    assert Layout(torch.arange(8), num_frames=2).quota(Tiles(2, 4), 0.5).are_frames
    assert not Layout(torch.arange(8)).quota(Tiles(2, 4), 0.5).are_frames
