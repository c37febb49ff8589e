import pytest

from vllm_script.kernels.testing import assert_selection, num_differing

from .ops import greedy_map, reduce_graph

SETTINGS = {"tau": 0.1, "tau_relative": True, "gamma": 1.0}


@pytest.fixture(scope="module")
def inputs():
    from .real_inputs import real_inputs

    return list(real_inputs(2))


@pytest.mark.parametrize("index", range(2))
def test_selection_of_real_features(index, inputs, large_tiles, count_ties):
    tokens, relevance = inputs[index]
    target, budget = len(tokens) // 2, len(tokens) // 9
    picks, num_beyond_tie = assert_selection(
        tokens, relevance, target, budget, "triton", **SETTINGS
    )
    reference = greedy_map(tokens, relevance, budget, pool=reduce_graph(tokens, target, **SETTINGS))
    count_ties(budget, num_differing(picks, reference), num_beyond_tie)
