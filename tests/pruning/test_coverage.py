import torch

from vllm_script import select_visual_tokens

# Three axes as tokens: equal letters have cosine 1, different ones 0.
LETTERS = torch.eye(3)[[ord(letter) - ord("A") for letter in "BAAACABC"]]


def test_without_a_question_one_of_each_kind_stays_before_a_second():
    kept = [select_visual_tokens(LETTERS, k, mode="coverage").tolist() for k in (1, 2, 3)]
    assert kept == [[1], [0, 1], [0, 1, 4]]


def test_what_is_asked_for_is_covered_first():
    relevance = torch.tensor([0.0, 0, 0, 0, 1, 0, 0, 1])
    kept = select_visual_tokens(LETTERS, 1, relevance=relevance, mode="coverage")
    assert kept.tolist() == [4]


def test_a_token_may_be_kept_for_what_it_says_of_others():
    """Two relevant tokens at 0 and 40 degrees; one between them is as relevant as nothing."""
    angle = torch.tensor([0.0, 20.0, 40.0, 200.0]).deg2rad()
    tokens = torch.stack([angle.cos(), angle.sin()], dim=1)
    relevance = torch.tensor([1.0, 0.0, 1.0, 0.0])
    kept = select_visual_tokens(tokens, 1, relevance=relevance, mode="coverage")
    assert kept.tolist() == [1]
    assert select_visual_tokens(tokens, 1, relevance=relevance, mode="cdpruner").tolist() == [0]
