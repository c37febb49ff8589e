import torch

from vllm_script.pruning import PruningParams, run_mode

# Three axes as tokens: equal letters have cosine 1, different ones 0.
LETTERS = torch.eye(3)[[ord(letter) - ord("A") for letter in "AAABCABC"]]
PARAMS = PruningParams(tau=0.5, tau_relative=False, gamma=0.0)


def test_gsp_is_the_reduced_graph():
    # Worked by hand in tests/kernels/test_reduce_graph.py.
    assert run_mode(LETTERS, 5, None, "gsp", PARAMS).tolist() == [1, 4, 5, 6, 7]


def test_gsp_fills_from_survivors_by_diversity():
    # The graph runs out of edges at 1A 4C 6B 7C. Greedy MAP takes one of each letter.
    assert run_mode(LETTERS, 3, None, "gsp", PARAMS).tolist() == [1, 4, 6]
