"""The calls that are timed, and whether what they select is right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
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
    targets, budgets = [shape.target] * shape.batch, [shape.budget] * shape.batch
    lengths, query_lengths = [shape.tokens] * shape.batch, [QUERY_ROWS] * shape.batch
    pool = reduce_graph(x, targets, lengths=lengths, **SETTINGS)
    kept = torch.arange(0, len(x), max(1, shape.tokens // shape.budget), device=x.device)
    backends: list[tuple[str, Any]] = [("triton", "triton")] if on_gpu else []
    few_steps = shape.budget * shape.batch <= MOST_HOST_STEPS
    for variant, backend in [*backends, ("eager", "torch")]:
        many: dict[str, Any] = {"lengths": lengths, "backend": backend}
        relevance = partial(query_relevance, x, inputs.query, query_lengths=query_lengths, **many)
        yield "norms", variant, partial(inverse_norms, x, backend)
        yield "relevance", variant, relevance
        yield "redundancy", variant, partial(one_round, inputs, backend)
        yield "reduce_graph", variant, partial(reduce_graph, x, targets, **SETTINGS, **many)
        yield "gather", variant, partial(gather_rows, x, kept, backend)
        if few_steps or backend == "triton":
            picks = partial(greedy_map, x, inputs.relevance, budgets, pool=pool, **many)
            yield "greedy_map", variant, picks
            yield "selection", variant, partial(selected, inputs, backend)
    if few_steps:
        yield "selection", "compiled", partial(each_image, inputs, compiled_selection)
        yield "selection", "published", partial(each_image, inputs, published_selection)


def one_round(inputs: Inputs, backend: Any) -> list[torch.Tensor]:
    """Redundancy of every other row, image by image."""
    images = inputs.x.split(inputs.shape.tokens)
    return [bipartite_redundancy(x[::2], x[1::2], 0.4, 1.0, backend) for x in images]


def selected(inputs: Inputs, backend: Any) -> torch.Tensor:
    """What mode `script` does, for all images at once, and the kept rows."""
    shape, x = inputs.shape, inputs.x
    lengths, budgets = [shape.tokens] * shape.batch, [shape.budget] * shape.batch
    given = {"inverse_norm": inverse_norms(x, backend), "lengths": lengths, "backend": backend}
    pool = reduce_graph(x, [shape.target] * shape.batch, **SETTINGS, **given)
    picks = greedy_map(x, inputs.relevance, budgets, pool=pool, **given)
    return gather_rows(x, picks.sort().values, backend)


def each_image(inputs: Inputs, select: Callable[..., torch.Tensor]) -> torch.Tensor:
    """The rows that a selection of one image keeps of each."""
    shape = inputs.shape
    images = zip(inputs.x.split(shape.tokens), inputs.relevance.split(shape.tokens), strict=True)
    rows = [select(x, relevance, shape.target, shape.budget) for x, relevance in images]
    return torch.cat(rows)
