"""The calls that are timed, and whether what they select is right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from vllm_script.kernels import (
    Backend,
    Pool,
    Similarity,
    cosine_similarity,
    farthest_first,
    gather_rows,
    greedy_cover,
    greedy_map,
    inverse_norms,
    query_relevance,
    reduce_graph,
)
from vllm_script.kernels.reduce_graph import MAX_ROUNDS
from vllm_script.kernels.testing import assert_picks, assert_selection, rows_of

from .inputs import QUERY_ROWS, SETTINGS, Inputs, Shape
from .loop_forms import compiled_selection, published_selection

# Loops on the host make a few launches a step: more steps than these are not worth waiting for.
MOST_HOST_STEPS = 12_000


class Run(NamedTuple):
    """Something to time."""

    op: str
    variant: str
    call: Callable[[], Any]


def passes_gate(inputs: Inputs, backend: Backend) -> bool:
    """Whether the selection is right, choice by choice, in float64: that of the first image alone,
    and those of the first and the last in the call for all."""
    try:
        num_beyond_tie = _check(inputs, backend)
        assert num_beyond_tie == 0, f"{num_beyond_tie} picks are worse than a tie"
    except AssertionError as error:
        print(f"! {inputs.shape}: the selection is wrong, so it is not timed: {error}")
        return False
    return True


def _check(inputs: Inputs, backend: Backend) -> int:
    """Check the selections, and return how many picks are no tie, as `assert_selection`."""
    shape, images, relevances = inputs.shape, inputs.images, inputs.relevances
    target, budget = shape.target, shape.budget
    _, num_beyond_tie = assert_selection(
        images[0], relevances[0], target, budget, backend, **SETTINGS
    )
    _, pool, picks = _select(images, inputs.relevance, shape, backend)
    pools, own_picks = rows_of(*pool, shape.of_all(shape.tokens)), picks.split(budget)
    for image in sorted({0, shape.batch - 1}):
        first = image * shape.tokens
        left, picked = pools[image] - first, own_picks[image] - first
        alone = cosine_similarity([images[image]], backend=backend)
        own_pool = reduce_graph(alone, [target], **SETTINGS)
        (wanted,) = rows_of(*own_pool, [shape.tokens])
        assert torch.equal(left, wanted), f"image {image} has another pool than alone"
        if len(left) == budget:
            assert torch.equal(picked, left), f"not all of the pool of image {image} is picked"
        else:
            num_beyond_tie += assert_picks(images[image], relevances[image], left, picked)
    return num_beyond_tie


def runs(inputs: Inputs, on_gpu: bool, baselines: bool) -> Iterator[Run]:
    """Everything that is timed of these inputs; `baselines`: what selections are compared with."""
    shape, few_steps = inputs.shape, inputs.shape.budget * inputs.shape.batch <= MOST_HOST_STEPS
    if on_gpu:
        yield from _ops(inputs, "triton", "triton", greedy=True)
    yield from _products(inputs)
    if on_gpu and shape.batch > 1:
        yield Run("selection", "one by one", partial(one_by_one, inputs, "triton"))
    if not baselines:
        return
    yield from _ops(inputs, "eager", "torch", greedy=few_steps)
    if few_steps:
        yield Run("selection", "compiled", partial(each_image, inputs, compiled_selection))
        yield Run("selection", "published", partial(each_image, inputs, published_selection))


def _ops(inputs: Inputs, variant: str, backend: Backend, greedy: bool) -> Iterator[Run]:
    """Every op on all images in one call, and the whole selection."""
    shape, x, images = inputs.shape, inputs.x, inputs.images
    targets, budgets = shape.of_all(shape.target), shape.of_all(shape.budget)
    similarity = cosine_similarity(images, backend)
    pool = reduce_graph(similarity, targets, **SETTINGS)
    kept = torch.arange(0, len(x), max(1, shape.tokens // shape.budget), device=x.device)
    relevance = partial(
        query_relevance,
        *(x, inputs.query),
        lengths=shape.of_all(shape.tokens),
        query_lengths=shape.of_all(QUERY_ROWS),
        backend=backend,
    )
    # In plain PyTorch cosines are computed when they are asked for.
    cosines = cosine_similarity if backend == "triton" else all_cosines
    products: Callable[[], Any] = partial(cosines, images, backend)
    yield Run("norms", variant, partial(inverse_norms, x, backend))
    yield Run("relevance", variant, relevance)
    yield Run("similarity", variant, products)
    yield Run("reduce_graph", variant, partial(reduce_graph, similarity, targets, **SETTINGS))
    yield Run("gather", variant, partial(gather_rows, x, kept, backend))
    if greedy:
        picks = partial(greedy_map, similarity, inputs.relevance, budgets, pool=pool)
        yield Run("greedy_map", variant, picks)
        spread = partial(farthest_first, similarity, budgets, inputs.relevance)
        yield Run("farthest_first", variant, spread)
        cover = partial(greedy_cover, similarity, budgets, inputs.relevance)
        yield Run("greedy_cover", variant, cover)
        yield Run("selection", variant, partial(in_one_call, inputs, backend))


def _products(inputs: Inputs) -> Iterator[Run]:
    """The product of each image's rows with themselves, as PyTorch computes it (cuBLAS on a GPU):
    all of it, where ours is a triangle; to float32 where it can."""
    own = inputs.x.dtype
    # To a dtype that is not the rows' own PyTorch multiplies on CUDA alone.
    for dtype in dict.fromkeys((torch.float32, own) if inputs.x.is_cuda else (own,)):
        call = partial(_multiply, inputs.images, dtype)
        yield Run("similarity", f"mm {str(dtype).removeprefix('torch.')}", call)


def _multiply(images: Sequence[torch.Tensor], dtype: torch.dtype) -> None:
    for image in images:
        if dtype == image.dtype:
            torch.mm(image, image.T)
        else:
            torch.mm(image, image.T, out_dtype=dtype)


def all_cosines(images: Sequence[torch.Tensor], backend: Backend) -> None:
    """Compute the similarity, and read all of each image's."""
    similarity = cosine_similarity(images, backend)
    for image in range(len(images)):
        similarity.block(image, slice(None), slice(None))


def _select(
    images: Sequence[torch.Tensor], relevance: torch.Tensor, shape: Shape, backend: Backend
) -> tuple[Similarity, Pool, torch.Tensor]:
    """Similarity, pool and picks of images in one call; `shape`: of each of them."""
    count = len(images)
    similarity = cosine_similarity(images, backend=backend)
    pool = reduce_graph(similarity, [shape.target] * count, **SETTINGS)
    return similarity, pool, greedy_map(similarity, relevance, [shape.budget] * count, pool=pool)


def in_one_call(inputs: Inputs, backend: Backend) -> list[torch.Tensor]:
    """What mode `script` does for the images of a step, all in one call of each op, and the rows
    that are kept of each image."""
    _, _, picks = _select(inputs.images, inputs.relevance, inputs.shape, backend)
    kept, rows = picks.sort().values.split(inputs.shape.budget), []
    for number, (image, own) in enumerate(zip(inputs.images, kept, strict=True)):
        rows.append(gather_rows(image, own - number * inputs.shape.tokens, backend))
    return rows


def one_by_one(inputs: Inputs, backend: Backend) -> list[torch.Tensor]:
    """As `in_one_call`, image after image."""
    rows = []
    for image, relevance in zip(inputs.images, inputs.relevances, strict=True):
        _, _, picks = _select([image], relevance, inputs.shape, backend)
        rows.append(gather_rows(image, picks.sort().values, backend))
    return rows


def each_image(inputs: Inputs, select: Callable[..., torch.Tensor]) -> list[torch.Tensor]:
    """The rows that a selection of one image keeps of each."""
    shape = inputs.shape
    pairs = zip(inputs.images, inputs.relevances, strict=True)
    return [select(x, scores, shape.target, shape.budget) for x, scores in pairs]


def rounds_of(inputs: Inputs, backend: Backend) -> int:
    """How many rounds graph reduction does, in the image that takes most."""
    shape = inputs.shape
    similarity = cosine_similarity(inputs.images, backend=backend)
    counts = [torch.full((shape.batch,), shape.tokens, device=inputs.x.device)]
    for number in range(1, MAX_ROUNDS + 1):
        pool = reduce_graph(similarity, shape.of_all(shape.target), **SETTINGS, num_rounds=number)
        counts.append(pool.counts)
    left = torch.stack(counts)
    return int((left[1:] != left[:-1]).sum(0).max())
