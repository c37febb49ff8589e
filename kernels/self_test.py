"""Every op once, on a small picture's worth of random tokens, held against float64.

Says in seconds whether the kernels compile on this device and choose what they should. The full
tests say more; this is for machines where they are not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from . import (
    Pool,
    cosine_similarity,
    farthest_first,
    gather_rows,
    greedy_cover,
    greedy_map,
    query_relevance,
    reduce_graph,
)
from ._triton import Backend, use_triton
from .reduce_graph import MAX_ROUNDS
from .similarity import Similarity
from .testing import (
    TIE,
    assert_cover,
    assert_farthest,
    assert_picks,
    assert_rounds,
    rows_of,
    unit_rows64,
)

NUM_TOKENS, WIDTH = 720, 256
POOL, BUDGET = 360, 80
RELEVANCE_TOLERANCE = 1e-4
"""Of relevance in [0, 1]; float32 knows the cosines that it is scaled from to about 1e-6."""

_GRAPH: dict[str, Any] = {"tau": 0.1, "tau_relative": True, "gamma": 1.0}


class Result(NamedTuple):
    """What one op did."""

    op: str
    detail: str
    """What it chose from what."""
    seconds: float
    """Time of a run after the one that was checked, for the first one compiles."""
    problem: str | None
    """What was wrong, in one line; None where nothing was."""


class Inputs(NamedTuple):
    """The tokens of one made-up picture and the question about it, and the code to select with."""

    tokens: torch.Tensor
    """[NUM_TOKENS, WIDTH], of the dtype that the device serves in."""
    query: torch.Tensor
    """[2, WIDTH] of that dtype."""
    relevance: torch.Tensor
    """[NUM_TOKENS] float32 in [0, 1]."""
    backend: Backend
    """Never "auto", which would hide a kernel that does not run."""


def self_test(device: str) -> Iterator[Result]:
    """Run and check the ops one by one, on "cuda" by kernels if Triton is installed, or "cpu"."""
    inputs = _inputs(device)
    for op, (check, detail) in _CHECKS.items():
        try:
            seconds = _timed(check(inputs), device)
        except Exception as error:  # a kernel that does not compile raises whatever it likes
            yield Result(op, detail, 0.0, _first_line(error))
        else:
            yield Result(op, detail, seconds, None)


def _inputs(device: str) -> Inputs:
    """Tokens in groups of similar ones, as a sky or a wall makes them; the same on every device."""
    generator = torch.Generator().manual_seed(0)
    groups = torch.randn(48, WIDTH, generator=generator)
    place = torch.randint(len(groups), (NUM_TOKENS,), generator=generator)
    tokens = groups[place] + 0.7 * torch.randn(NUM_TOKENS, WIDTH, generator=generator)
    query = torch.randn(2, WIDTH, generator=generator)
    relevance = torch.rand(NUM_TOKENS, generator=generator)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    tokens = tokens.to(device, dtype)
    backend: Backend = "triton" if use_triton("auto", tokens) else "torch"
    return Inputs(tokens, query.to(device, dtype), relevance.to(device), backend)


def _check_relevance(inputs: Inputs) -> Callable[[], object]:
    def run() -> torch.Tensor:
        return query_relevance(inputs.tokens, inputs.query, backend=inputs.backend)

    scores = unit_rows64(inputs.tokens) @ unit_rows64(inputs.query).mean(0)
    expected = (scores - scores.min()) / (scores.max() - scores.min())
    worst = float((run().double() - expected).abs().max())
    assert worst <= RELEVANCE_TOLERANCE, f"relevance is wrong by {worst:.2g}"
    return run


def _check_similarity(inputs: Inputs) -> Callable[[], object]:
    def run() -> Similarity:
        return cosine_similarity([inputs.tokens], backend=inputs.backend)

    unit = unit_rows64(inputs.tokens)
    every = slice(None)
    worst = float((run().block(0, every, every).double() - unit @ unit.T).abs().max())
    assert worst <= TIE, f"a cosine is wrong by {worst:.2g}"
    return run


def _check_reduction(inputs: Inputs) -> Callable[[], object]:
    similarity = cosine_similarity([inputs.tokens], backend=inputs.backend)

    def run(num_rounds: int = MAX_ROUNDS) -> Pool:
        return reduce_graph(similarity, [POOL], **_GRAPH, num_rounds=num_rounds)

    def survivors_after(num_rounds: int) -> torch.Tensor:
        return rows_of(*run(num_rounds), [NUM_TOKENS])[0]

    left = assert_rounds(inputs.tokens, POOL, survivors_after, **_GRAPH)
    assert torch.equal(survivors_after(MAX_ROUNDS), left), "all rounds at once leave other tokens"
    return run


def _check_choice(inputs: Inputs) -> Callable[[], object]:
    similarity = cosine_similarity([inputs.tokens], backend=inputs.backend)

    def run() -> torch.Tensor:
        return greedy_map(similarity, inputs.relevance, [BUDGET])

    every = torch.arange(NUM_TOKENS, device=inputs.tokens.device)
    picks = run()
    assert len(picks) == BUDGET, f"picked {len(picks)} tokens, not {BUDGET}"
    assert_picks(inputs.tokens, inputs.relevance, every, picks)
    return run


def _check_spread(inputs: Inputs) -> Callable[[], object]:
    similarity = cosine_similarity([inputs.tokens], backend=inputs.backend)

    def run() -> torch.Tensor:
        return farthest_first(similarity, [BUDGET], inputs.relevance)

    assert_farthest(inputs.tokens, inputs.relevance, run())
    return run


def _check_cover(inputs: Inputs) -> Callable[[], object]:
    similarity = cosine_similarity([inputs.tokens], backend=inputs.backend)

    def run() -> torch.Tensor:
        return greedy_cover(similarity, [BUDGET], inputs.relevance)

    assert_cover(inputs.tokens, inputs.relevance, run())
    return run


def _check_copy(inputs: Inputs) -> Callable[[], object]:
    rows = torch.arange(0, NUM_TOKENS, NUM_TOKENS // BUDGET, device=inputs.tokens.device)

    def run() -> torch.Tensor:
        return gather_rows(inputs.tokens, rows, inputs.backend)

    assert torch.equal(run(), inputs.tokens[rows]), "the copied rows are not those asked for"
    return run


_CHECKS = {
    "query_relevance": (_check_relevance, f"{NUM_TOKENS} tokens scored"),
    "cosine_similarity": (_check_similarity, f"{NUM_TOKENS} x {NUM_TOKENS} cosines"),
    "reduce_graph": (_check_reduction, f"{NUM_TOKENS} -> {POOL} tokens"),
    "greedy_map": (_check_choice, f"{NUM_TOKENS} -> {BUDGET} tokens"),
    "farthest_first": (_check_spread, f"{NUM_TOKENS} -> {BUDGET} tokens"),
    "greedy_cover": (_check_cover, f"{NUM_TOKENS} -> {BUDGET} tokens"),
    "gather_rows": (_check_copy, f"{BUDGET} rows copied"),
}


def _timed(run: Callable[[], object], device: str) -> float:
    """Seconds of one run, the device's work included."""
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _first_line(error: Exception) -> str:
    words = str(error).strip().splitlines() or ["no message"]
    return words[0] if isinstance(error, AssertionError) else f"{type(error).__name__}: {words[0]}"
