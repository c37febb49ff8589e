import pytest
import torch

from vllm_script.kernels import unit_rows
from vllm_script.pruning import PruningParams, run_mode
from vllm_script.pruning.gsp import edge_threshold, reduce_graph, reduce_once

# gamma 0 makes the redundancy of a token its number of edges.
COUNT_EDGES = {"tau": 0.5, "tau_relative": False, "gamma": 0.0}
RELATIVE = {"tau": 0.1, "tau_relative": True, "gamma": 1.0}

# Three axes as tokens: equal letters have cosine 1, different ones 0.
LETTERS = "AAABCABC"


def letters(text: str) -> torch.Tensor:
    return torch.eye(3)[[ord(letter) - ord("A") for letter in text]]


@pytest.mark.parametrize(
    "target, expected",
    [
        # Round 0: src 0A 2A 4C 6B, dst 1A 3B 5A 7C. Edges: 0A 2, 2A 2, 4C 1, 6B 1.
        (8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (7, [1, 2, 3, 4, 5, 6, 7]),  # 0A ties with 2A: the lowest index goes first
        (6, [1, 3, 4, 5, 6, 7]),  # two are half of src: no more in this round
        # Round 1: src 3B 5A 7C, dst 1A 4C 6B: one edge each, so 3B goes first, then 5A.
        (5, [1, 4, 5, 6, 7]),
        (4, [1, 4, 6, 7]),
        # Round 2: src 1A 6B, dst 4C 7C: no edge, also not the other way round. Stop.
        (3, [1, 4, 6, 7]),
    ],
)
def test_reduce_graph_by_hand(target, expected):
    assert reduce_graph(letters(LETTERS), target, **COUNT_EDGES).tolist() == expected


def test_reduce_graph_swaps_roles():
    # Round 0: src 0A 2B 4C, dst 1A 3A 5A: 0A goes. Left 1A 2B 3A 4C 5A.
    # Round 1: src 2B 4C, dst 1A 3A 5A: none.
    assert reduce_graph(letters("AABACA"), 1, **COUNT_EDGES).tolist() == [1, 2, 3, 4, 5]
    # Round 0: src 0B 2A 4C, dst 1A 3A 5B: 0B and 2A go. Left 1A 3A 4C 5B.
    # Round 1: src 3A 5B, dst 1A 4C: 3A goes. Left 1A 4C 5B, no edge.
    assert reduce_graph(letters("BAAACB"), 1, **COUNT_EDGES).tolist() == [1, 4, 5]


def test_gsp_mode_fills_from_survivors_by_diversity():
    # The survivors 1A 4C 6B 7C of the case above: greedy MAP takes one of each letter.
    params = PruningParams(**COUNT_EDGES)
    assert run_mode(letters(LETTERS), 3, None, "gsp", params).tolist() == [1, 4, 6]


@pytest.mark.parametrize(
    "changed",
    [{}, {"tau": 1.0}, {"tau": 1.0, "tau_relative": False}],
    ids=["relative", "relative-1", "absolute-1"],
)
@pytest.mark.parametrize("num_tokens", [2, 9, 64])
@pytest.mark.parametrize("dim", [1, 63, 4096])
def test_reduce_graph_thins_exact_duplicates_to_one(dim, num_tokens, changed):
    row = torch.randn(1, dim, generator=torch.Generator().manual_seed(dim))
    unit = unit_rows(row.expand(num_tokens, dim))
    assert len(reduce_graph(unit, 1, **{**RELATIVE, **changed})) == 1


def test_edge_threshold_relative_to_mean():
    generator = torch.Generator().manual_seed(0)
    src, dst = (unit_rows(torch.randn(n, 8, generator=generator) + 1.0) for n in (20, 21))
    expected = (src @ dst.T).mean() + 0.1
    torch.testing.assert_close(edge_threshold(src, dst, 0.1, True), expected)
    assert edge_threshold(src, dst, 0.1, False) == 0.1


def clustered(seed: int, num_tokens: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [N, 64] in clusters, with a common offset as real features have, and their labels.

    Label 0 has 35 % of the tokens, labels 1 to 100 about 2 or 3 tokens each.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(1, 101, (num_tokens,), generator=generator)
    wall = torch.randperm(num_tokens, generator=generator)[: num_tokens * 35 // 100]
    labels[wall] = 0
    centres = torch.randn(101, 64, generator=generator) + 0.8
    noise = 0.3 * torch.randn(num_tokens, 64, generator=generator)
    return unit_rows(centres[labels] + noise), labels


def test_redundancy_decides_what_is_dropped():
    """Every token has a neighbour here, and still not simply every second one goes."""
    unit, labels = clustered(0)
    survivors = reduce_graph(unit, len(unit) // 2, tau=-1.0, tau_relative=False, gamma=1.0)
    assert 0.25 < (survivors % 2).float().mean() < 0.75
    assert (labels[survivors] == 0).float().mean() < 0.3  # 35 % of all tokens


@pytest.mark.parametrize("keep", [0.5, 0.25])
@pytest.mark.parametrize("seed", range(5))
def test_reduce_graph_thins_a_wall_and_keeps_some(seed, keep):
    unit, labels = clustered(seed)
    survivors = reduce_graph(unit, int(keep * len(unit)), **RELATIVE)
    kept_wall = (labels[survivors] == 0).sum() / (labels == 0).sum()
    kept_rest = (labels[survivors] != 0).sum() / (labels != 0).sum()
    assert 0 < kept_wall < kept_rest


@pytest.mark.parametrize("settings", [RELATIVE, COUNT_EDGES], ids=["relative", "absolute"])
@pytest.mark.parametrize("seed", range(5))
def test_reduce_once_leaves_a_neighbour_of_all_it_drops(seed, settings):
    unit, _ = clustered(seed)
    similarity = unit @ unit.T
    survivors = torch.arange(len(unit))
    num_dropped = 0
    for round_index in range(6):
        parity = round_index % 2
        src, dst = survivors[parity::2], survivors[1 - parity :: 2]
        threshold = edge_threshold(unit[src], unit[dst], settings["tau"], settings["tau_relative"])
        after = reduce_once(unit, survivors, 1, src_parity=parity, **settings)
        dropped = survivors[~torch.isin(survivors, after)]
        neighbour = similarity[dropped][:, after] >= threshold - 1e-6  # [dropped, after]
        assert neighbour.any(1).all()
        num_dropped += len(dropped)
        survivors = after
    assert num_dropped > 100
