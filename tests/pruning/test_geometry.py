"""Geometry correction: by hand, and every mode that reads it against its formula."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from vllm_script import select_visual_tokens
from vllm_script.kernels import cosine_similarity, greedy_cover, greedy_map, reduce_graph
from vllm_script.pruning import MODES, PruningParams, run_mode
from vllm_script.pruning.geometry import centered, corrected_similarity, distinctiveness
from vllm_script.pruning.task import Task

N, K = 70, 15


def tokens(seed=0, num_tokens=N, width=24):
    """Tokens that share a direction, as those of real encoders do."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_tokens, width, generator=generator) + 0.8


def relevance(seed=0):
    return torch.rand(N, generator=torch.Generator().manual_seed(100 + seed))


def task(x, geometry="centered", mode="script"):
    return Task(x, 1, None, mode, PruningParams(geometry=geometry))


def test_by_hand():
    """Four tokens around (1, 1), which is their mean."""
    x = torch.tensor([[2.0, 1.0], [1.0, 2.0], [0.0, 1.0], [1.0, 0.0]])
    assert centered(x).tolist() == [[1, 0], [0, 1], [-1, 0], [0, -1]]
    block = corrected_similarity([task(x)]).block(0, slice(None), slice(None))
    expected = [[1, 0, -1, 0], [0, 1, 0, -1], [-1, 0, 1, 0], [0, -1, 0, 1]]
    torch.testing.assert_close(block, torch.tensor(expected).float())
    # The mean of their unit rows is along (1, 1): two are nearer to it than the others.
    torch.testing.assert_close(distinctiveness(x), torch.tensor([0.0, 0, 1, 1]), atol=1e-5, rtol=0)


def test_distinctiveness_is_minus_the_mean_cosine_with_the_others():
    x = tokens()
    cosines = normalize(x.double()) @ normalize(x.double()).T
    mean = (cosines.sum(1) - 1) / (N - 1)
    expected = (mean.max() - mean) / (mean.max() - mean.min())
    torch.testing.assert_close(distinctiveness(x).double(), expected, atol=1e-5, rtol=0)


def test_cdpruner_in_centered_geometry():
    x, r = tokens(), relevance()
    weight = r / r.max() * distinctiveness(x)
    expected = greedy_map(cosine_similarity([x - x.mean(0)]), weight, [K])
    kept = select_visual_tokens(x, K, relevance=r, mode="cdpruner", geometry="centered")
    assert torch.equal(kept, expected.sort().values)


def test_script_thins_the_tokens_as_they_are():
    """In centred geometry it selects in GSP's pool of raw cosines, and among the best weights."""
    x, r = tokens(), relevance()
    target = K + math.floor(PruningParams().pool_ratio * (N - K) + 0.5)
    pool = reduce_graph(cosine_similarity([x]), [target], **PruningParams().graph)
    weight = r / r.max() * distinctiveness(x)
    top = weight.argsort(descending=True, stable=True)[:K]
    candidates = {*pool.rows[: int(pool.counts[0])].tolist(), *top.tolist()}
    kept = select_visual_tokens(x, K, relevance=r, mode="script", geometry="centered")
    assert set(kept.tolist()) <= candidates and len(candidates) < N


def test_divprune_in_centered_geometry():
    x = tokens()
    unit = normalize(x - x.mean(0))
    distance, distinct = 1 - unit @ unit.T, distinctiveness(x)
    picks = [int((distance + 9 * torch.eye(N)).amin(1).argmax())]
    for _ in range(K - 1):
        score = distinct * distance[:, picks].amin(1)
        score[picks] = -1
        picks.append(int(score.argmax()))
    kept = select_visual_tokens(x, K, mode="divprune", geometry="centered")
    assert kept.tolist() == sorted(picks)


def test_coverage_weighs_and_does_not_center():
    x, r = tokens(), relevance()
    weight = r / r.max() * distinctiveness(x)
    expected = greedy_cover(cosine_similarity([x]), [K], weight)
    kept = select_visual_tokens(x, K, relevance=r, mode="coverage", geometry="centered")
    assert torch.equal(kept, expected.sort().values)


READERS = [mode for mode, its in MODES.items() if "geometry" in its.reads]


@pytest.mark.parametrize("mode", READERS)
def test_an_offset_of_all_tokens_does_not_matter_to_their_likeness(mode):
    """In centred geometry; what weighs them is taken from the tokens as they are."""
    x = tokens().double()
    shifted = x + torch.randn(24, generator=torch.Generator().manual_seed(5)).double()
    torch.testing.assert_close(centered(shifted), centered(x), atol=1e-5, rtol=0)
    kept = [select_visual_tokens(x, K, mode=mode, geometry=own) for own in ("raw", "centered")]
    assert not torch.equal(*kept)


@pytest.mark.parametrize("mode", READERS)
@pytest.mark.parametrize("value", [0.0, 1.0, -3.5])
def test_constant_tokens(mode, value):
    """Nothing is distinct and nothing differs: the lowest indices, or the most relevant."""
    x = torch.full((20, 6), value)
    kept = run_mode(x, 4, None, mode, PruningParams(geometry="centered"))
    assert len(kept) == 4
    if mode != "script":  # GSP may have dropped them
        assert kept.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("mode", READERS)
def test_features_that_are_not_finite_count_as_zero(mode):
    x, params = tokens(), PruningParams(geometry="centered")
    zeroed = x.clone()
    spoiled = x.clone()
    for place, value in (((3, 1), torch.nan), ((40, 7), torch.inf), ((41, 7), -torch.inf)):
        zeroed[place], spoiled[place] = 0.0, value
    kept = [run_mode(each, K, relevance(), mode, params) for each in (zeroed, spoiled)]
    assert torch.equal(*kept)


@pytest.mark.parametrize("mode", READERS)
def test_a_constant_relevance_has_no_say(mode):
    x, params = tokens(), PruningParams(geometry="centered")
    without = run_mode(x, K, None, mode, params)
    for value in (0.0, 1e-38, 1e38):
        assert torch.equal(run_mode(x, K, torch.full((N,), value), mode, params), without)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_centered_rows_have_the_dtype_of_the_tokens(dtype):
    x = tokens(num_tokens=600).to(dtype)  # more than a block
    expected = (x.float() - x.float().mean(0)).to(dtype)
    assert centered(x).dtype == dtype
    torch.testing.assert_close(centered(x), expected, atol=2e-2, rtol=0)
