"""Which visual tokens stay where a vision tower is thinned."""

import pytest
import torch

from vllm_script.kernels import MAX_TOKENS
from vllm_script.pruning import PruningParams, run_mode, thinning
from vllm_script.pruning.thinning import Quota, most_distinct_patches, survivors


def noise(tiles, size, width=16, seed=0):
    return torch.randn(tiles, size, width, generator=torch.Generator().manual_seed(seed))


def alike(tiles, size):
    """Tokens of three kinds, so that the graph does not run out of edges."""
    kinds = torch.randint(3, (tiles, size), generator=torch.Generator().manual_seed(0))
    return torch.eye(3, 16)[kinds] + 0.1 * noise(tiles, size)


def ones(tiles, size):
    return torch.ones(tiles, size, 16)


def whole(each, tiles, size, are_frames=False):
    return Quota(each, torch.ones(tiles, size, dtype=torch.bool), are_frames)


def in_tiles(left, size):
    return (left - torch.arange(len(left))[:, None] * size).tolist()


@pytest.mark.parametrize("content", ["noise", "alike", "one colour", "NaN"])
@pytest.mark.parametrize("are_frames", [False, True])
@pytest.mark.parametrize("each", [1, 2, 11, 22, 23])
@pytest.mark.parametrize("tiles", [1, 2, 9])
def test_every_tile_keeps_as_many(content, are_frames, each, tiles):
    size = 23
    tokens = {"noise": noise, "alike": alike}.get(content, ones)(tiles, size)
    if content == "NaN":
        tokens[0, 3:5] = torch.nan
    quota = whole(each, tiles, size, are_frames)
    left = survivors(tokens, quota)
    assert left.shape == (tiles, each) and left.dtype == torch.int64
    assert (left.diff(dim=1) > 0).all()
    places = torch.tensor(in_tiles(left, size))
    assert places.min() >= 0 and places.max() < size
    assert quota.num_left == tiles * each


@pytest.mark.parametrize("each", [30, 60, 90])
def test_they_are_those_of_gsp(each):
    """Of every tile for itself: what is beside it does not matter."""
    tokens = alike(3, 120)
    left = survivors(tokens, whole(each, 3, 120))
    for own, rows in zip(in_tiles(left, 120), tokens, strict=True):
        expected = run_mode(rows, each, None, "gsp", PruningParams(pool_ratio=0.0))
        assert own == expected.tolist()


def test_a_token_is_what_its_most_unusual_patch_is():
    """By hand, in float64: the patch with the lowest cosine to the sum of all directions."""
    states = noise(2, 5 * 4, seed=3).view(2, 5, 4, 16) + 1
    found = most_distinct_patches(states)
    for own, expected in zip(states.double(), found, strict=True):
        directions = own / own.norm(dim=2, keepdim=True)
        likeness = directions @ directions.sum((0, 1))
        rows = [patches[row] for patches, row in zip(own, likeness.argmin(1), strict=True)]
        assert torch.equal(torch.stack(rows).float(), expected)
    assert torch.equal(most_distinct_patches(states[:, :, :1]), states[:, :, 0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_patches_of_a_large_picture_in_half_precision(dtype):
    """9,216 patches with norms of some 50 and a common direction: what float32 says of them."""
    states = (noise(1, 9216, width=64, seed=4) + 6).view(1, 2304, 4, 64).to(dtype)
    found = most_distinct_patches(states)
    assert torch.equal(found.float(), most_distinct_patches(states.float()))
    # One that is not finite is like nothing, and nothing more depends on it.
    states[0, 5, 2] = torch.nan
    again = most_distinct_patches(states)
    assert torch.equal(again[0, 6:], found[0, 6:]) and torch.equal(again[0, :5], found[0, :5])


def test_a_thing_on_one_patch_of_a_token_keeps_it():
    """A wall of 64 tokens of four patches, and a thing on one patch of the tenth."""
    states = torch.ones(1, 64, 4, 8) + 0.3 * noise(1, 256, width=8).view(1, 64, 4, 8)
    states[0, 9, 2] = torch.tensor([6.0, -6, 0, 0, 0, 0, 0, 0])
    assert 9 in survivors(most_distinct_patches(states), whole(16, 1, 64))[0].tolist()


def test_a_thing_on_a_wall_stays():
    """Two tokens of 64 that are like nothing else; even spacing would lose one of them."""
    states = torch.zeros(1, 64, 3)
    states[..., 0] = 1
    states[0, 9], states[0, 30] = torch.tensor([0.0, 1, 0]), torch.tensor([0.0, 0, 1])
    assert {9, 30} <= set(survivors(states, whole(8, 1, 64))[0].tolist())


def test_where_all_tokens_are_much_alike_a_thing_stays_too():
    """Their mean cosine is above 0.9, so that none is tau above it."""
    states = 4 * torch.ones(1, 64, 16) + 0.02 * noise(1, 64)
    things = [9, 30, 47]
    states[0, things, :3] += torch.eye(3)
    assert things[0] % 2 and things[1] % 2 == 0  # even spacing would lose one of them
    assert set(things) <= set(survivors(states, whole(16, 1, 64))[0].tolist())


def test_of_what_ranks_do_not_decide_on_evenly_spaced_ones_stay():
    ranks = torch.tensor([[2, 0, 1, 1, 1, 1, 0, 2], [1, 1, 1, 1, 2, 2, 2, 2]])
    assert thinning._lowest(ranks, 2).tolist() == [[1, 6], [8, 10]]
    assert thinning._lowest(ranks, 4).tolist() == [[1, 2, 4, 6], [8, 9, 10, 11]]
    assert thinning._lowest(ranks, 6).tolist() == [[1, 2, 3, 4, 5, 6], [8, 9, 10, 11, 12, 14]]


def test_what_the_prompt_does_not_have_goes_first():
    """The second of three tiles has five tokens in the prompt, the third two; none is a fourth."""
    can_be_kept = torch.ones(4, 12, dtype=torch.bool)
    can_be_kept[1, 5:] = can_be_kept[2, :10] = can_be_kept[3] = False
    quota = Quota(4, can_be_kept, False)
    assert quota.num_left == 4 + 4 + 2
    first, second, third = in_tiles(survivors(alike(3, 12), quota), 12)
    assert len(first) == len(second) == 4 and set(second) < set(range(5))
    assert third == [0, 5, 10, 11]
    own = run_mode(alike(3, 12)[1, :5], 4, None, "gsp", PruningParams(pool_ratio=0.0))
    assert second == own.tolist()


def test_what_stands_still_goes_before_what_moves():
    """Three frames of one picture and one of another, none of whose tokens are alike in a frame."""
    still, other = torch.eye(48)[:24], torch.eye(48)[24:]
    video = torch.stack([still, still, other, still])
    left = survivors(video, whole(12, 4, 24, are_frames=True))
    shown = {place for frame in (0, 1, 3) for place in in_tiles(left, 24)[frame]}
    assert shown == set(range(24))
    alone = in_tiles(survivors(video, whole(12, 4, 24)), 24)
    assert len({place for frame in (0, 1, 3) for place in alone[frame]}) == 12


def test_windows_know_nothing_of_each_other():
    """Nine frames are three windows of three."""
    video, quota = alike(9, 20), whole(7, 9, 20, are_frames=True)
    left = torch.tensor(in_tiles(survivors(video, quota), 20))
    again = survivors(video[3:6], whole(7, 3, 20, are_frames=True))
    assert left[3:6].tolist() == in_tiles(again, 20)


@pytest.mark.parametrize("are_frames", [False, True])
def test_large_tiles_are_cut(are_frames, monkeypatch):
    """Graphs have at most MAX_TOKENS: a tile's two halves, or fewer frames of a window."""
    tokens = alike(4, 60)
    monkeypatch.setattr(thinning, "MAX_TOKENS", 40)
    left = survivors(tokens, whole(20, 4, 60, are_frames))
    halves = survivors(tokens.view(8, 30, 16), whole(10, 8, 30))
    assert left.flatten().tolist() == halves.flatten().tolist()
    monkeypatch.setattr(thinning, "MAX_TOKENS", 130)
    joined = survivors(tokens, whole(20, 4, 60, are_frames=True))
    pairs = [survivors(pair, whole(20, 2, 60, are_frames=True)) for pair in tokens.split(2)]
    assert in_tiles(joined, 60) == [own for pair in pairs for own in in_tiles(pair, 60)]
    assert MAX_TOKENS > 130


@pytest.mark.parametrize("are_frames", [False, True])
def test_kernels_and_reference_agree(are_frames):
    pytest.importorskip("triton", reason="Triton is not installed: there is one backend")
    tokens = torch.cat([alike(2, 50), noise(1, 50, seed=1)])
    quota = whole(21, 3, 50, are_frames)
    assert torch.equal(survivors(tokens, quota, "triton"), survivors(tokens, quota, "torch"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_states_of_the_towers_dtype(dtype):
    assert survivors(alike(2, 40).to(dtype), whole(20, 2, 40)).shape == (2, 20)
