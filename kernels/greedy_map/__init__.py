"""Greedy MAP of a determinantal point process: tokens that are relevant and unlike each other.

L = diag(r) S diag(r), S the cosine similarity. Every step takes the token with the largest
residual variance (what its own L[i, i] has left after the picked ones are projected out).

Source: Chen et al. 2018 (arXiv 1709.05135), Algorithm 1: an incremental Cholesky factor, one
row a pick, O(budget^2 N) time and O(budget N) memory beside S.

A GPU takes one launch for all steps of all images, or of those of a class of sizes. Where it has
clusters, images that they have room for are selected by one cluster each: cluster/. All others are
by Triton; kernel.py says how its programs take a step together.

In a video the frames may have floors: tokens that each is sure to keep. They are picked first, the
best of the whole video at every step, and what follows knows of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch

from .._launch import launch_phases, num_waiting_programs, run_op
from .._sizes import size_class
from .._triton import triton
from .._varlen import check_budgets, offsets_of, places_by
from ..reduce_graph import Pool
from ..similarity import Similarity, TriangleSimilarity
from ..transfer import to_device
from .cluster import cluster_of, has_clusters, select_cluster
from .kernel import _select_kernel
from .reference import RESIDUAL_FLOOR, ROW_ALIGNMENT, greedy_map_reference

# Tokens of an image that one of its programs owns, where there are multiprocessors enough. Not yet
# tuned on a GPU.
TOKENS_PER_PROGRAM = 128

# Most programs of an image, in classes: each reads a word of every other at every step. The threads
# of a warp compare 32 words among themselves; more take an exchange between warps. Not yet tuned on
# a GPU.
PROGRAM_CLASSES = 32, 64

# Values of the factor that a program keeps in registers, and that it takes at once of the rest.
# Not yet tuned on a GPU.
RESIDENT_VALUES, CHUNK_VALUES = 32768, 4096

# Warps of a program, and registers of a thread: the compiler must not save any for a second program
# on the multiprocessor, for there is none.
NUM_WARPS, NUM_REGISTERS = 8, 255

# Relevance that a program reads at once, when it looks for the largest.
BLOCK_RELEVANCE = 4096


def greedy_map(
    similarity: Similarity,
    relevance: torch.Tensor | None,
    budgets: Sequence[int],
    *,
    pool: Pool | None = None,
    floors: Sequence[int] | None = None,
    clusters: bool = True,
) -> torch.Tensor:
    """Pick tokens of each image; ties go to the lowest index. On a GPU the host never waits.

    When the picked tokens span all others, relevance descending fills the remaining places.

    Args:
        similarity: of the N tokens of each image.
        relevance: [sum of N] float32, finite and >= 0, high = keep. Its scale in an image does not
            matter. None or a constant: diversity alone decides.
        budgets: tokens to pick of each image, in [1, N].
        pool: pick among these alone, which must be at least the budget; None: among all. Only
            their relevance counts. The pool of windows is none: it has more counts than images.
        floors: of the frames of the one image that there is, a video. They have N / len(floors)
            tokens each, one after the other: the fewest tokens to pick of each frame. The first
            picks are of frames that have fewer, then all compete. A pool must have that many of
            each. None: no frames.
        clusters: False: by Triton, also where a GPU has clusters.

    Returns:
        picked rows [sum of budgets] int64, image by image, in pick order; an image of whose pool
        all is picked has them ascending. Rows are numbered from the first row of the first image.

    Raises:
        ValueError: a budget is not in [1, N], or budgets, the pool or floors do not fit the images.
    """
    lengths = similarity.lengths
    budgets = check_budgets("budget", budgets, lengths, lengths)
    if pool is not None and len(pool.counts) != len(lengths):
        raise ValueError(f"the pool must have {len(lengths)} counts, got {len(pool.counts)}")
    if floors is not None:
        _check_floors(floors, lengths, budgets)
    with_torch = partial(_greedy_map_torch, similarity, relevance, budgets, pool, floors)
    if not isinstance(similarity, TriangleSimilarity):
        return with_torch()
    on_gpu = partial(_greedy_map_on_gpu, similarity, relevance, budgets, pool, floors, clusters)
    return run_op("greedy_map", similarity.backend, similarity.values, on_gpu, with_torch)


def _greedy_map_torch(
    similarity: Similarity,
    relevance: torch.Tensor | None,
    budgets: list[int],
    pool: Pool | None,
    floors: Sequence[int] | None,
) -> torch.Tensor:
    picks, first = [], 0
    for image, (length, budget) in enumerate(zip(similarity.lengths, budgets, strict=True)):
        if pool is None:
            rows: torch.Tensor | slice = slice(None)
            own_rows = torch.arange(length, device=similarity.device)
        else:
            rows = own_rows = pool.rows[first : first + int(pool.counts[image])] - first
        if pool is not None and len(own_rows) == budget:
            picks.append(first + own_rows)
        else:
            own_relevance = None
            if relevance is not None:
                own_relevance = relevance[first : first + length][rows]
            own_picks = greedy_map_reference(
                similarity.block(image, rows, rows),
                similarity.has_length(image)[rows],
                own_relevance,
                budget,
                None if floors is None else own_rows // (length // len(floors)),
                floors,
            )
            picks.append(first + own_rows[own_picks])
        first += length
    return torch.cat(picks)


def _check_floors(floors: Sequence[int], lengths: list[int], budgets: list[int]) -> None:
    if len(lengths) != 1:
        raise ValueError(f"floors are of the frames of one video, got {len(lengths)} images")
    size, rest = divmod(lengths[0], max(1, len(floors)))
    if rest or not floors or not all(0 <= floor <= size for floor in floors):
        raise ValueError(
            f"floors must be in [0, {size}], one for each of frames that share {lengths[0]} rows "
            f"equally, got {list(floors)}"
        )
    if sum(floors) > budgets[0]:
        raise ValueError(
            f"floors must add up to at most the budget {budgets[0]}, got {sum(floors)}"
        )


def _greedy_map_on_gpu(
    similarity: TriangleSimilarity,
    relevance: torch.Tensor | None,
    budgets: list[int],
    pool: Pool | None,
    floors: Sequence[int] | None,
    clusters: bool,
) -> torch.Tensor:
    lengths, device = similarity.lengths, similarity.device
    if relevance is not None:
        relevance = relevance.float().contiguous()
    first_rows, first_picks = offsets_of(lengths), offsets_of(budgets)
    picks = torch.empty(first_picks[-1], dtype=torch.int64, device=device)

    def plan_of(places: Sequence[int]) -> torch.Tensor:
        columns = lengths, first_picks, budgets, similarity.offsets
        plan = [[column[place] for place in places] for column in (first_rows, *columns)]
        return to_device(torch.tensor([list(places), *plan]), device)

    selects: list[int | None] = [None] * len(lengths)
    if clusters and floors is None and has_clusters(device):
        selects = list(map(cluster_of, lengths, budgets))
    for cluster, places in places_by(selects).items():
        if cluster is not None:
            select_cluster(
                cluster,
                similarity.values,
                relevance,
                plan_of(places),
                [lengths[place] for place in places],
                [budgets[place] for place in places],
                pool,
                first_rows[-1],
                picks,
                RESIDUAL_FLOOR,
            )
    classes: dict[int, list[int]] = {}
    for place, cluster in enumerate(selects):
        if cluster is None:
            block_tokens = token_class(lengths[place], num_waiting_programs(device))
            classes.setdefault(block_tokens, []).append(place)
    if classes:
        _launch_programs(similarity, relevance, budgets, pool, floors, classes, plan_of, picks)
    return picks


def _launch_programs(
    similarity: TriangleSimilarity,
    relevance: torch.Tensor | None,
    budgets: list[int],
    pool: Pool | None,
    floors: Sequence[int] | None,
    classes: Mapping[int, Sequence[int]],
    plan_of: Callable[[Sequence[int]], torch.Tensor],
    picks: torch.Tensor,
) -> None:
    """Pick tokens of the images of some classes, a launch of Triton for each."""
    lengths, device = similarity.lengths, similarity.device
    num_rows, num_waiting = sum(lengths), num_waiting_programs(device)
    if relevance is None:
        relevance = torch.ones(num_rows, dtype=torch.float32, device=device)
    rows, counts = (None, None) if pool is None else pool
    frames = None
    if floors is not None:
        frames = to_device(torch.tensor(floors, dtype=torch.int32), device)

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    for block_tokens, places in classes.items():
        num_images, own_lengths = len(places), [lengths[place] for place in places]
        most = max(budgets[place] for place in places)
        block_programs = program_class(max(own_lengths), block_tokens)
        block_chunk = max(1, CHUNK_VALUES // block_tokens)
        row_unit = max(ROW_ALIGNMENT, block_chunk)
        stride_fn = triton.cdiv(most, row_unit) * row_unit
        launch_phases(
            _select_kernel,
            num_programs(own_lengths, block_tokens, num_waiting),
            most + 1,
            device,
            similarity_ptr=similarity.values,
            relevance_ptr=relevance,
            plan_ptr=plan_of(places),
            rows_ptr=rows,
            counts_ptr=counts,
            floors_ptr=frames,
            frame_size=1 if floors is None else num_rows // len(floors),
            num_certain=0 if floors is None else sum(floors),
            factor_ptr=empty(num_rows, stride_fn),
            stride_fn=stride_fn,
            weight_ptr=empty(num_rows),
            residual_ptr=empty(num_rows),
            room_ptr=None if floors is None else empty(num_rows, dtype=torch.int32),
            words_ptr=empty(num_images, 2, block_programs, dtype=torch.int64),
            newest_ptr=empty(num_images, 2, block_programs),
            arrivals_ptr=torch.zeros(num_images, dtype=torch.int32, device=device),
            picks_ptr=picks,
            residual_floor=RESIDUAL_FLOOR,
            num_images=num_images,
            num_phases=most + 1,
            BLOCK_N=block_tokens,
            BLOCK_K=max(1, RESIDENT_VALUES // block_tokens),
            BLOCK_CHUNK=block_chunk,
            BLOCK_PROGRAMS=block_programs,
            BLOCK_RELEVANCE=BLOCK_RELEVANCE,
            num_warps=NUM_WARPS,
            maxnreg=NUM_REGISTERS,
        )


def num_programs(lengths: Sequence[int], block_tokens: int, num_waiting: int) -> int:
    """Programs of a launch: enough for all images beside each other, or all that can wait."""
    return min(sum(-(-length // block_tokens) for length in lengths), num_waiting)


def token_class(longest: int, num_waiting: int) -> int:
    """Tokens that a program owns of an image with that many tokens, or with fewer.

    num_waiting: programs that there are room for on the device.
    """
    return size_class(-(-longest // min(num_waiting, PROGRAM_CLASSES[-1])), (TOKENS_PER_PROGRAM,))


def program_class(longest: int, block_tokens: int) -> int:
    """Posts that a program reads at once, of an image with that many tokens, or with fewer."""
    return size_class(-(-longest // block_tokens), PROGRAM_CLASSES)
