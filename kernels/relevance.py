"""Query relevance: how much each visual token has to do with the user's text; high = keep.

score[i] = polarity * mean over query rows q of cosine(visual[i], q), rescaled to [0, 1].

Source: CDPruner, Theia-4869/CDPruner@9541616 llava/model/llava_arch.py, `encode_images`.
Differs: polarity is an argument there fixed to -1, and flat scores give ones, not a blow-up.

The mean of cosines is one product with the mean query direction. Triton takes three launches
for all images together: the directions, the scores, the rescaling. Normalised rows are never
stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from ._launch import launch, run_op
from ._triton import Backend, check_features, jit, tl, triton
from ._varlen import check_lengths, image_class, locate_block, max_blocks, offsets_of
from .norms import finite, inverse_length, unit_rows
from .transfer import to_device

# The published offset. It keeps the least relevant token selectable: relevance is never 0.
EPSILON = 1e-6

# Tile of the scores, stretch of a row and of an image, warps. Not yet tuned on a GPU.
BLOCK_N, BLOCK_C, BLOCK_SCORES, NUM_WARPS, DIRECTION_WARPS = 8, 256, 1024, 4, 8


def query_relevance(
    visual: torch.Tensor,
    query: torch.Tensor,
    polarity: int = 1,
    *,
    lengths: Sequence[int] | None = None,
    query_lengths: Sequence[int] | None = None,
    backend: Backend = "auto",
) -> torch.Tensor:
    """Score every visual token against the query.

    Many images: the visual tokens and the queries of all, one after the other, and the lengths.

    Args:
        visual: [N, C] visual tokens in the space of the query, float32/float16/bfloat16.
        query: [M, C] query rows, each with the same say, M >= 1.
        polarity: +1 where a high cosine means relevant, -1 where a low one does.
        lengths: visual tokens of each image; None: one image.
        query_lengths: query rows of each image; None: one image.
        backend: "auto" is Triton on CUDA, else torch. The other two never fall back.

    Returns:
        relevance [N] float32 as `normalize_relevance` scales it, over all rows of an image at
        once.

    Raises:
        ValueError: polarity is neither +1 nor -1, strides or lengths do not fit, or the backend
            cannot run on visual.
        ImportError: backend is "triton" and Triton is not installed.
    """
    if polarity not in (1, -1):
        raise ValueError(f"polarity must be 1 or -1, got {polarity!r}")
    check_features("visual", visual)
    check_features("query", query)
    lengths = check_lengths(lengths, len(visual), "lengths")
    query_lengths = check_lengths(query_lengths, len(query), "query_lengths")
    if len(lengths) != len(query_lengths):
        raise ValueError(
            f"lengths and query_lengths must be of the same images, got {len(lengths)} and "
            f"{len(query_lengths)}"
        )
    inputs = visual, query, polarity, lengths, query_lengths
    with_triton = partial(_query_relevance_triton, *inputs)
    with_torch = partial(_query_relevance_torch, *inputs)
    return run_op("query_relevance", backend, visual, with_triton, with_torch)


def _query_relevance_torch(
    visual: torch.Tensor,
    query: torch.Tensor,
    polarity: int,
    lengths: list[int],
    query_lengths: list[int],
) -> torch.Tensor:
    pairs = zip(visual.split(lengths), query.split(query_lengths), strict=True)
    return torch.cat([query_relevance_reference(*pair, polarity) for pair in pairs])


def query_relevance_reference(
    visual: torch.Tensor, query: torch.Tensor, polarity: int
) -> torch.Tensor:
    """`query_relevance` of one image in plain PyTorch, float32 throughout; any device."""
    return normalize_relevance(polarity * (unit_rows(visual) @ unit_rows(query).mean(0)))


def normalize_relevance(scores: torch.Tensor) -> torch.Tensor:
    """Rescale scores [N] to relevance [N]: (scores - min + EPSILON) / (max - min).

    The maximum is 1 + EPSILON / (max - min). Scores that spread less than EPSILON differ by
    rounding only, so they say nothing about the query: all ones.
    """
    low, high = scores.aminmax()
    spread = high - low
    return torch.where(spread < EPSILON, 1.0, (scores - low + EPSILON) / spread)


def unit_peak(relevance: torch.Tensor) -> torch.Tensor:
    """Scale relevance [N] >= 0 to a maximum of 1, so that its products stay in float32.

    A constant says nothing about the query: all ones.
    """
    low, high = relevance.aminmax()
    return torch.where(low == high, 1.0, relevance / high)


def largest_relevance(relevances: Sequence[torch.Tensor]) -> torch.Tensor:
    """Relevance [N] to several queries: of each visual token the largest.

    Args:
        relevances: [N] float32 to each query, at least one, as `normalize_relevance` scales them.
            One that is constant says nothing and takes no part, unless all are.
    """
    if len(relevances) == 1:
        return relevances[0]
    each = torch.stack(list(relevances))  # [queries, N]
    says_something = each.amin(1, keepdim=True) < each.amax(1, keepdim=True)
    return torch.where(says_something | ~says_something.any(), each, 0.0).amax(0)


def _query_relevance_triton(
    visual: torch.Tensor,
    query: torch.Tensor,
    polarity: int,
    lengths: list[int],
    query_lengths: list[int],
) -> torch.Tensor:
    num_images, dim = len(lengths), visual.shape[1]
    plan = to_device(torch.tensor([offsets_of(lengths), offsets_of(query_lengths)]), visual.device)
    offsets, query_offsets = plan
    directions = torch.empty(num_images, dim, dtype=torch.float32, device=visual.device)
    relevance = torch.empty(len(visual), dtype=torch.float32, device=visual.device)
    launch(
        _direction_kernel,
        (num_images,),
        visual.device,
        query_ptr=query,
        stride_qn=query.stride(0),
        offsets_ptr=query_offsets,
        directions_ptr=directions,
        dim=dim,
        BLOCK_C=triton.next_power_of_2(dim),
        num_warps=DIRECTION_WARPS,
    )
    launch(
        _score_kernel,
        (max_blocks(len(visual), num_images, BLOCK_N),),
        visual.device,
        visual_ptr=visual,
        stride_vn=visual.stride(0),
        offsets_ptr=offsets,
        directions_ptr=directions,
        scores_ptr=relevance,
        polarity=float(polarity),
        num_images=num_images,
        dim=dim,
        BLOCK_N=BLOCK_N,
        BLOCK_C=BLOCK_C,
        BLOCK_IMAGES=image_class(num_images),
        num_warps=NUM_WARPS,
    )
    launch(
        _rescale_kernel,
        (num_images,),
        visual.device,
        scores_ptr=relevance,
        offsets_ptr=offsets,
        epsilon=EPSILON,
        BLOCK_N=BLOCK_SCORES,
        num_warps=NUM_WARPS,
    )
    return relevance


@jit(any_place=("offsets_ptr",))
def _direction_kernel(
    query_ptr, stride_qn, offsets_ptr, directions_ptr, dim, BLOCK_C: tl.constexpr
):
    """Mean unit row of the query of one image."""
    image = tl.program_id(0).to(tl.int64)
    first, end = tl.load(offsets_ptr + image), tl.load(offsets_ptr + image + 1)
    c = tl.arange(0, BLOCK_C)
    direction = tl.zeros([BLOCK_C], dtype=tl.float32)
    for row in range(first, end):
        values = finite(tl.load(query_ptr + row * stride_qn + c, mask=c < dim, other=0.0)).to(
            tl.float32
        )
        direction += values * inverse_length(tl.sum(values * values, 0))
    tl.store(directions_ptr + image * dim + c, direction / (end - first), mask=c < dim)


@jit(varying=("num_images",), any_place=("offsets_ptr",))
def _score_kernel(
    visual_ptr,
    stride_vn,
    offsets_ptr,
    directions_ptr,
    scores_ptr,
    polarity,
    num_images,
    dim,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_IMAGES: tl.constexpr,
):
    """Cosine of some visual tokens of one image with its direction, times the polarity."""
    image, end, start = locate_block(
        tl.program_id(0), offsets_ptr, num_images, BLOCK_N, BLOCK_IMAGES
    )
    if image == num_images:
        return
    rows = start.to(tl.int64) + tl.arange(0, BLOCK_N)
    row_mask = rows < end
    product = tl.zeros([BLOCK_N], dtype=tl.float32)
    square = tl.zeros([BLOCK_N], dtype=tl.float32)
    for c_start in range(0, dim, BLOCK_C):
        c = c_start + tl.arange(0, BLOCK_C)
        mask = row_mask[:, None] & (c < dim)[None, :]
        values = tl.load(visual_ptr + rows[:, None] * stride_vn + c, mask=mask, other=0.0)
        values = finite(values).to(tl.float32)
        direction = tl.load(directions_ptr + image.to(tl.int64) * dim + c, mask=c < dim, other=0.0)
        product += tl.sum(values * direction[None, :], 1)
        square += tl.sum(values * values, 1)
    inverse = inverse_length(square)
    # Where the norm left the range of float32, so may have the product.
    cosine = tl.where(inverse > 0.0, product * inverse, 0.0)
    tl.store(scores_ptr + rows, polarity * cosine, mask=row_mask)


@jit(any_place=("offsets_ptr",))
def _rescale_kernel(scores_ptr, offsets_ptr, epsilon, BLOCK_N: tl.constexpr):
    """`normalize_relevance` of the scores of one image, in place."""
    image = tl.program_id(0)
    first, end = tl.load(offsets_ptr + image), tl.load(offsets_ptr + image + 1)
    lows = tl.full([BLOCK_N], float("inf"), dtype=tl.float32)
    highs = tl.full([BLOCK_N], float("-inf"), dtype=tl.float32)
    for start in range(first, end, BLOCK_N):
        rows = start + tl.arange(0, BLOCK_N)
        lows = tl.minimum(lows, tl.load(scores_ptr + rows, mask=rows < end, other=float("inf")))
        highs = tl.maximum(highs, tl.load(scores_ptr + rows, mask=rows < end, other=float("-inf")))
    low = tl.min(lows, 0)
    spread = tl.max(highs, 0) - low
    # Flat scores are replaced below; the divisor only has to be one.
    divisor = tl.where(spread < epsilon, 1.0, spread)
    for start in range(first, end, BLOCK_N):
        rows = start + tl.arange(0, BLOCK_N)
        scores = tl.load(scores_ptr + rows, mask=rows < end, other=0.0)
        rescaled = tl.where(spread < epsilon, 1.0, (scores - low + epsilon) / divisor)
        tl.store(scores_ptr + rows, rescaled, mask=rows < end)
