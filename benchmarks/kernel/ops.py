"""The calls that are timed, and whether what they select is right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from vllm_script.kernels import (
    bipartite_redundancy,
    gather_rows,
    greedy_map,
    inverse_norms,
    query_relevance,
    reduce_graph,
)
from vllm_script.kernels.testing import assert_selection

from .inputs import QUERY_ROWS, Inputs
from .loop_forms import compiled_selection, published_selection
from .timing import progress

SETTINGS: dict[str, Any] = {"tau": 0.1, "tau_relative": True, "gamma": 1.0}

# Loops on the host make a few launches a step: more steps than these are not worth waiting for.
MOST_HOST_STEPS = 12_000


def passes_gate(inputs: Inputs, backend: Any) -> bool:
    """Whether the selection of the first image is right, choice by choice, in float64."""
    shape = inputs.shape
    x, relevance = inputs.x[: shape.tokens], inputs.relevance[: shape.tokens]
    try:
        _, num_beyond_tie = assert_selection(
            x, relevance, shape.target, shape.budget, backend, **SETTINGS
        )
        assert num_beyond_tie == 0, f"{num_beyond_tie} picks are worse than a tie"
    except AssertionError as error:
        print(f"! {shape}: the selection is wrong, so it is not timed: {error}")
        return False
    return True


def runs(inputs: Inputs, on_gpu: bool) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """(op, variant, call) of everything that is timed of these inputs."""
    shape, x = inputs.shape, inputs.x
    pool = reduce_graph(x, [shape.target] * shape.batch, lengths=shape.lengths, **SETTINGS)
    kept = torch.arange(0, len(x), max(1, shape.tokens // shape.budget), device=x.device)
    backends: list[tuple[str, Any]] = [("triton", "triton")] if on_gpu else []
    few_steps = shape.budget * shape.batch <= MOST_HOST_STEPS
    for variant, backend in [*backends, ("eager", "torch")]:
        yield "norms", variant, lambda b=backend: inverse_norms(x, b)
        yield "relevance", variant, lambda b=backend: relevance_of(inputs, b)
        yield "redundancy", variant, lambda b=backend: one_round(inputs, b)
        yield "reduce_graph", variant, lambda b=backend: reduced(inputs, b)
        yield "gather", variant, lambda b=backend: gather_rows(x, kept, b)
        if few_steps or backend == "triton":
            yield "greedy_map", variant, lambda b=backend: picked(inputs, pool, b)
            yield "selection", variant, lambda b=backend: selected(inputs, b)
    if few_steps:
        yield "selection", "compiled", lambda: each_image(inputs, compiled_selection)
        yield "selection", "published", lambda: each_image(inputs, published_selection)
    else:
        progress(f"  loops on the host are left out: {shape.budget * shape.batch} steps")


def relevance_of(inputs: Inputs, backend: Any) -> torch.Tensor:
    query_lengths = [QUERY_ROWS] * inputs.shape.batch
    return query_relevance(
        inputs.x,
        inputs.query,
        lengths=inputs.shape.lengths,
        query_lengths=query_lengths,
        backend=backend,
    )


def one_round(inputs: Inputs, backend: Any) -> list[torch.Tensor]:
    images = inputs.x.split(inputs.shape.tokens)
    return [bipartite_redundancy(x[::2], x[1::2], 0.4, 1.0, backend) for x in images]


def reduced(inputs: Inputs, backend: Any) -> Any:
    targets = [inputs.shape.target] * inputs.shape.batch
    return reduce_graph(
        inputs.x, targets, **SETTINGS, lengths=inputs.shape.lengths, backend=backend
    )


def picked(inputs: Inputs, pool: Any, backend: Any) -> torch.Tensor:
    budgets = [inputs.shape.budget] * inputs.shape.batch
    return greedy_map(
        inputs.x,
        inputs.relevance,
        budgets,
        lengths=inputs.shape.lengths,
        pool=pool,
        backend=backend,
    )


def selected(inputs: Inputs, backend: Any) -> torch.Tensor:
    """What mode `script` does, for all images at once, and the kept rows."""
    shape, x = inputs.shape, inputs.x
    inverse_norm = inverse_norms(x, backend)
    given = {"lengths": shape.lengths, "inverse_norm": inverse_norm, "backend": backend}
    pool = reduce_graph(x, [shape.target] * shape.batch, **SETTINGS, **given)
    budgets = [shape.budget] * shape.batch
    picks = greedy_map(x, inputs.relevance, budgets, pool=pool, **given)
    return gather_rows(x, picks.sort().values, backend)


def each_image(inputs: Inputs, select: Callable[..., torch.Tensor]) -> torch.Tensor:
    shape = inputs.shape
    images = zip(inputs.x.split(shape.tokens), inputs.relevance.split(shape.tokens), strict=True)
    rows = [select(x, relevance, shape.target, shape.budget) for x, relevance in images]
    return torch.cat(rows)
