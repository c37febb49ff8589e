import sys

import pytest
import torch

from vllm_script.kernels import _launch
from vllm_script.kernels import self_test as module
from vllm_script.kernels.self_test import BUDGET, POOL, self_test

OPS = [
    *("query_relevance", "cosine_similarity", "reduce_graph", "greedy_map", "farthest_first"),
    *("greedy_cover", "gather_rows"),
]


def test_every_op_passes_on_the_cpu():
    results = list(self_test("cpu"))
    assert [result.op for result in results] == OPS
    assert [result.problem for result in results] == [None] * len(OPS)
    assert all(0 < result.seconds < 10 for result in results)


def raises(*args, **kwargs):
    raise RuntimeError("PTX of another architecture\nand more")


def opposite_relevance(*args, **kwargs):
    return 1 - module_ops["query_relevance"](*args, **kwargs)


def first_tokens(similarity, relevance, budgets):
    return torch.arange(budgets[0])


def first_of_all(similarity, budgets, weight):
    return torch.arange(budgets[0])


def last_tokens(similarity, targets, **settings):
    rows = torch.arange(similarity.lengths[0]).roll(targets[0])
    return module.Pool(rows, torch.tensor(targets))


def similarity_of_others(images, backend):
    return module_ops["cosine_similarity"]([image.roll(1, 0) for image in images], backend)


def other_rows(x, rows, backend):
    return x[rows + 1]


module_ops = {op: getattr(module, op) for op in OPS}
WRONG = {
    "query_relevance": (opposite_relevance, "relevance is wrong by"),
    "cosine_similarity": (similarity_of_others, "a cosine is wrong by"),
    "reduce_graph": (last_tokens, "dropped"),
    "greedy_map": (first_tokens, "the best is"),
    "farthest_first": (first_of_all, "the best is"),
    "greedy_cover": (first_of_all, "the best is"),
    "gather_rows": (other_rows, "not those asked for"),
}


AFFECTED = {"cosine_similarity": set(OPS) - {"query_relevance", "gather_rows"}}


@pytest.mark.parametrize("op", OPS)
def test_an_op_that_is_wrong_is_found(monkeypatch, op):
    wrong, words = WRONG[op]
    monkeypatch.setattr(module, op, wrong)
    problems = {result.op: result.problem for result in self_test("cpu") if result.problem}
    assert problems.keys() == AFFECTED.get(op, {op})
    assert words in problems[op]


@pytest.mark.parametrize("op", OPS)
def test_an_op_that_does_not_run_is_found(monkeypatch, op):
    monkeypatch.setattr(module, op, raises)
    problems = {result.op: result.problem for result in self_test("cpu") if result.problem}
    problem = "RuntimeError: PTX of another architecture"
    assert problems == dict.fromkeys(AFFECTED.get(op, {op}), problem)


def test_kernels_that_do_not_launch_are_found(monkeypatch):
    """As on a GPU, where a server would fall back to PyTorch."""
    monkeypatch.setattr(module, "use_triton", lambda backend, x: True)
    monkeypatch.setattr(_launch, "use_triton", lambda backend, x: backend != "torch")
    for name in "gather", "norms", "relevance", "similarity":
        launching = sys.modules[f"vllm_script.kernels.{name}"]
        monkeypatch.setattr(launching, "launch", raises)
    problem = "RuntimeError: PTX of another architecture"
    assert [result.problem for result in self_test("cpu")] == [problem] * len(OPS)


def test_there_is_something_to_choose():
    assert 0 < BUDGET < POOL < module.NUM_TOKENS
