"""Script and its parts, by hand and held against each other."""

import pytest
import torch

from vllm_script import select_visual_tokens
from vllm_script.kernels import Pool, cosine_similarity, greedy_map, reduce_graph
from vllm_script.kernels._triton import HAS_TRITON, is_interpreted
from vllm_script.pruning import PruningParams, run_mode, run_modes
from vllm_script.pruning.script import CONTEXT, FIRST
from vllm_script.pruning.task import Task

generator = torch.Generator().manual_seed(0)
TOKENS = torch.randn(101, 32, generator=generator) + 0.5
RELEVANCE = torch.rand(101, generator=generator)
GRAPH = PruningParams().graph


def thinned(target):
    """Rows that GSP leaves of TOKENS."""
    rows, counts = reduce_graph(cosine_similarity([TOKENS]), [target], **GRAPH)
    return rows[: counts[0]]


def picked(rows, relevance, budget):
    """QCSP in some rows of TOKENS, in the order of picks."""
    rows = torch.as_tensor(rows).sort().values
    pool = Pool(torch.cat([rows, rows.new_zeros(101 - len(rows))]), torch.tensor([len(rows)]))
    return greedy_map(cosine_similarity([TOKENS]), relevance, [budget], pool=pool)


def test_script_step_by_step():
    """The pool, its context, the guard, and the picks after the context."""
    budget, most_relevant = 24, set(RELEVANCE.argsort(descending=True)[:24].tolist())
    pool = thinned(43)  # 24 and a quarter of the other 77
    context = picked(pool, None, 3)
    weight = RELEVANCE.clone().index_fill(0, context, 1000.0)
    guarded = sorted(most_relevant | set(pool.tolist()))
    expected = picked(guarded, weight, budget)
    assert set(expected[:3].tolist()) == set(context.tolist())
    kept = select_visual_tokens(TOKENS, budget, relevance=RELEVANCE)
    assert kept.tolist() == sorted(expected.tolist())
    assert len(pool) == 43 and not most_relevant <= set(pool.tolist())


def test_a_perfect_relevance_keeps_the_object_and_its_context():
    """All of an object that is one wall of colour is kept, however redundant, beside a context."""
    tokens = torch.randn(96, 32, generator=torch.Generator().manual_seed(1))
    tokens[32:54] = tokens[32] + 0.01 * tokens[32:54]
    relevance = torch.zeros(96).index_fill(0, torch.arange(32, 54), 1.0)
    kept = select_visual_tokens(tokens, 32, relevance=relevance)
    assert set(range(32, 54)) <= set(kept.tolist())
    kept = select_visual_tokens(tokens, 16, relevance=relevance)
    others = [row for row in kept.tolist() if not 32 <= row < 54]
    assert len(others) >= 16 // CONTEXT - 1  # one of the context may be of the object


@pytest.mark.parametrize("relevance", [None, 0.0, 0.3, 1.0])
def test_script_without_a_question_is_gsp(relevance):
    own = None if relevance is None else torch.full((101,), relevance)
    kept = select_visual_tokens(TOKENS, 30, relevance=own)
    assert torch.equal(kept, select_visual_tokens(TOKENS, 30, mode="gsp"))


def test_a_small_budget_has_no_context():
    budget = CONTEXT - 1
    kept = select_visual_tokens(TOKENS, budget, relevance=RELEVANCE, pool_ratio=1.0)
    alone = select_visual_tokens(TOKENS, budget, relevance=RELEVANCE, mode="cdpruner")
    assert torch.equal(kept, alone)


def test_the_scale_of_relevance_does_not_matter():
    kept = select_visual_tokens(TOKENS, 40, relevance=RELEVANCE)
    for scale in 2.0**-20, 4.0, 2.0**100:
        assert torch.equal(select_visual_tokens(TOKENS, 40, relevance=scale * RELEVANCE), kept)


def test_images_of_one_call_know_nothing_of_each_other():
    """Images with and without a context, with a say and without, in one group."""
    tasks = [
        Task(TOKENS[:size], budget, relevance, "script", PruningParams())
        for size, budget, relevance in (
            (101, 40, RELEVANCE),
            (60, 3, RELEVANCE[:60].flip(0)),
            (33, 16, torch.ones(33)),
            (90, 80, RELEVANCE[:90]),
        )
    ]
    together = run_modes(tasks)
    for task, kept in zip(tasks, together, strict=True):
        assert torch.equal(kept, run_modes([task])[0])


@pytest.mark.parametrize("floors", [None, [1] * 4], ids=["images", "video"])
@pytest.mark.skipif(not HAS_TRITON or not is_interpreted(), reason="needs Triton's interpreter")
def test_the_kernels_select_the_same(floors):
    """Triton and PyTorch, in two images of one call and in a video."""
    sizes = [100] if floors else [101, 60]
    kept = {
        backend: run_modes(
            [
                Task(TOKENS[:n], n // 4, RELEVANCE[:n], mode, PruningParams(), floors, backend)
                for mode in ("script", "gsp")
                for n in sizes
            ]
        )
        for backend in ("torch", "triton")
    }
    for reference, selected in zip(kept["torch"], kept["triton"], strict=True):
        assert torch.equal(reference, selected)


# Three axes as tokens: equal letters have cosine 1, different ones 0.
LETTERS = torch.eye(3)[[ord(letter) - ord("A") for letter in "AAABCABC"]]
PARAMS = PruningParams(tau=0.5, tau_relative=False, gamma=0.0, pool_ratio=0.0)


def test_gsp_is_the_reduced_graph():
    # Worked by hand in tests/kernels/test_reduce_graph.py.
    assert run_mode(LETTERS, 5, None, "gsp", PARAMS).tolist() == [1, 4, 5, 6, 7]


def test_gsp_fills_from_survivors_by_diversity():
    # The graph runs out of edges at 1A 4C 6B 7C. Greedy MAP takes one of each letter.
    assert run_mode(LETTERS, 3, None, "gsp", PARAMS).tolist() == [1, 4, 6]


def test_gsp_keeps_the_most_diverse_of_its_pool():
    kept = select_visual_tokens(TOKENS, 50, pool_ratio=0.5, mode="gsp")
    pool = thinned(76)  # 50 and half of the other 51, rounded up
    assert len(pool) == 76
    assert kept.tolist() == sorted(picked(pool, None, 50).tolist())


def test_the_context_comes_before_the_most_relevant():
    """A residual that is not mere rounding outweighs the highest relevance."""
    assert 1e-5 * FIRST**2 > 1.0
