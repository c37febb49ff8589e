"""The shelf of selections: each is taken once, and it never grows beyond its bound."""

import torch

from vllm_script.explain.shelf import MOST_KEPT, Shelf
from vllm_script.worker.selector import Selection


def test_taken_once():
    shelf = Shelf()
    shelf.put("a", Selection(torch.tensor([3, 7]), torch.tensor([0.5, 0.25]).bfloat16()))
    shelf.put("b", Selection(torch.tensor([1]), None))
    shelf.put("d", Selection(torch.tensor([2]), None, torch.tensor([2, 5])))
    first = {"kept": [3, 7], "relevance": [0.5, 0.25], "candidates": None}
    second = {"kept": [1], "relevance": None, "candidates": None}
    thinned = {"kept": [2], "relevance": None, "candidates": [2, 5]}
    assert shelf.take(["b", "c", "a", "d"]) == [second, None, first, thinned]
    assert shelf.take(["a"]) == [None]


def test_the_oldest_go():
    shelf = Shelf()
    for number in range(MOST_KEPT + 1):
        shelf.put(str(number), Selection(torch.tensor([number]), None))
    oldest, next_oldest, newest = shelf.take(["0", "1", str(MOST_KEPT)])
    assert oldest is None
    assert next_oldest is not None and newest is not None
