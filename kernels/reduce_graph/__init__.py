"""GSP: drop tokens that others can stand for, round after round, until a pool is left.

Each round splits the survivors into src and dst by alternating position, swaps the roles of the
round before, and drops the most redundant src tokens. dst is not touched, so whatever a round drops
has a neighbour that the round keeps: a large wall or sky is thinned and never deleted.

    edges[i]      = {j : cosine(src_i, dst_j) >= threshold}
    redundancy[i] = |edges[i]| * exp(gamma * (mean cosine over edges[i] - threshold))

Source: Script (arXiv 2512.01949), with a threshold of 0.2 and gamma 1. The published code
(01yzzyu/script.github.io@7e5e2f3 Script/llava/model/llava_arch.py:249-263) scores a full graph with
self edges at once and keeps the redundant tokens; this is the method, not that code.

How many survive a round is known on the device only, and the host never asks. Triton runs all
rounds of all images in one launch; kernel.py has it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from .._launch import launch_phases, num_waiting_programs, run_op
from .._sizes import MAX_TOKENS, size_class
from .._triton import triton
from .._varlen import check_budgets, check_lengths, offsets_of
from ..similarity import Similarity, TriangleSimilarity
from ..transfer import to_device
from .kernel import _reduce_kernel

# Largest part of src that one round may drop. Without a bound, the first round of a reduction to
# half the tokens drops all of src wherever every token has a neighbour, and redundancy, tau and
# gamma have no say: every second token goes. The paper does not state a bound.
MAX_DROP = 0.5

# Bounds the latency of inputs that yield a few tokens a round. At full rate a round leaves three
# quarters of the tokens, so 16 reach one in a hundred.
MAX_ROUNDS = 16

# Above this similarity tokens are duplicates whatever the threshold says. Below 1, because the
# float32 cosine of a row with its copy may be 0.9999999, and that of rounded copies lower.
DUPLICATE_SIMILARITY = 0.999

# Tokens on each side of a tile of the graph, sums that a program adds at once. Not yet tuned on a
# GPU.
BLOCK_TILE, BLOCK_SUMS = 64, 1024

# Warps of a program, and registers of a thread: the compiler must not save any for a second program
# on the multiprocessor, for there is none.
NUM_WARPS, NUM_REGISTERS = 8, 255

# Pairs of tokens that the dropping program is compiled for: one kernel for all usual images.
PAIR_CLASSES = (2048, MAX_TOKENS // 2)

# Rows of similarities that the reference looks through at once, so that they stay in cache.
REFERENCE_ROWS = 120


class Pool(NamedTuple):
    """The tokens that are left of each image; how many they are stays on the device."""

    rows: torch.Tensor
    """[N] int64: first the rows left of image 0, ascending, at the place of its own first row,
    and so on. What stands behind the rows of an image is not defined."""

    counts: torch.Tensor
    """[images] int64: rows left of each image."""


def reduce_graph(
    similarity: Similarity,
    targets: Sequence[int],
    *,
    tau: float,
    tau_relative: bool,
    gamma: float,
    windows: Sequence[torch.Tensor] | None = None,
    num_rounds: int = MAX_ROUNDS,
) -> Pool:
    """Drop redundant tokens of each image until its target survives, or none has an edge.

    Args:
        similarity: of the tokens of the images.
        targets: tokens wanted of each image, in [1, N]; with windows of each window.
        tau: smallest similarity that makes an edge.
        tau_relative: count tau from the mean similarity of the round's graph, instead of from 0.
        gamma: how much close neighbours outweigh many, >= 0.
        windows: of the one image that there is, the rows of each part that is reduced for itself,
            int64 in the order in which the part is split, each row of the image once; None: each
            image as a whole, in the order of its rows.
        num_rounds: at most that many rounds.

    Returns:
        the pool: as many tokens of each image as wanted, or more where edges or rounds ran out.
        Rows are numbered from the first row of the first image on. Rows of a window stand in its
        order, at the place of the window.

    Raises:
        ValueError: a target is not in [1, N], or targets or windows do not fit the images.
    """
    lengths = similarity.lengths
    if windows is not None:
        if len(lengths) != 1:
            raise ValueError(f"windows are of one image, got {len(lengths)} images")
        lengths = check_lengths([len(rows) for rows in windows], lengths[0], "windows")
    targets = check_budgets("target", targets, lengths, lengths)
    settings: dict[str, Any] = {"tau": tau, "tau_relative": tau_relative, "gamma": gamma}
    settings["num_rounds"] = num_rounds
    with_torch = partial(_reduce_graph_torch, similarity, lengths, targets, windows, settings)
    if not isinstance(similarity, TriangleSimilarity):
        return with_torch()
    with_triton = partial(_reduce_graph_triton, similarity, lengths, targets, windows, **settings)
    return run_op("reduce_graph", similarity.backend, similarity.values, with_triton, with_torch)


def _reduce_graph_torch(
    similarity: Similarity,
    lengths: list[int],
    targets: list[int],
    windows: Sequence[torch.Tensor] | None,
    settings: dict[str, Any],
) -> Pool:
    pool_rows, counts, first = [], [], 0
    for image, (length, target) in enumerate(zip(lengths, targets, strict=True)):
        if windows is None:
            rows: torch.Tensor = torch.arange(length, device=similarity.device)
            survivors = reduce_graph_reference(similarity, image, rows, target, **settings) + first
        else:
            rows = windows[image].to(similarity.device)
            survivors = reduce_graph_reference(similarity, 0, rows, target, **settings)
        pool_rows += [survivors, survivors.new_zeros(length - len(survivors))]
        counts.append(len(survivors))
        first += length
    return Pool(torch.cat(pool_rows), torch.tensor(counts, device=similarity.device))


def reduce_graph_reference(
    similarity: Similarity,
    image: int,
    rows: torch.Tensor,
    target: int,
    *,
    tau: float,
    tau_relative: bool,
    gamma: float,
    num_rounds: int = MAX_ROUNDS,
) -> torch.Tensor:
    """`reduce_graph` of some rows [N] of an image in plain PyTorch; any device.

    Returns the surviving rows int64, in their order.
    """
    for round_index in range(num_rounds):
        if len(rows) <= target:
            break
        num_before = len(rows)
        parity = round_index % 2
        src, dst = rows[parity::2], rows[1 - parity :: 2]
        redundancy = _redundancy_of(similarity.block(image, src, dst), tau, tau_relative, gamma)
        order = redundancy.argsort(descending=True, stable=True)
        num_redundant = int((redundancy > 0).sum())
        most = math.ceil(MAX_DROP * len(src))
        num_dropped = min(num_redundant, most, len(rows) - target)
        is_left = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        is_left[parity::2][order[:num_dropped]] = False
        rows = rows[is_left]
        # An idle round found no edge, and swapped roles would look at the same edges again.
        if len(rows) == num_before:
            break
    return rows


def _redundancy_of(
    block: torch.Tensor, tau: float, tau_relative: bool, gamma: float
) -> torch.Tensor:
    """Redundancy of src tokens from their cosines with dst, which the caller need not keep."""
    return redundancy_reference(block, edge_threshold(block, tau, tau_relative), gamma)


def edge_threshold(
    similarity: torch.Tensor, tau: float, tau_relative: bool
) -> float | torch.Tensor:
    """Smallest similarity that makes an edge; relative: tau above the mean of all [src, dst]."""
    if not tau_relative:
        return min(tau, DUPLICATE_SIMILARITY)
    return (similarity.mean() + tau).clamp(max=DUPLICATE_SIMILARITY)


def redundancy_reference(
    similarity: torch.Tensor, threshold: float | torch.Tensor, gamma: float
) -> torch.Tensor:
    """Redundancy [S] float32 of src tokens from their cosines [S, T] with dst; high = safe to drop.

    0 exactly where a token has no edge.
    """
    redundancy = []
    for block in similarity.split(REFERENCE_ROWS):
        # As float32, which is several times as fast on a CPU as to count a mask.
        edge = torch.ge(block, threshold, out=torch.empty_like(block))
        degree = edge.sum(1)
        mean_similarity = edge.mul_(block).sum(1) / degree.clamp(min=1)
        redundancy.append(degree * torch.exp(gamma * (mean_similarity - threshold)))
    return torch.cat(redundancy)


def _reduce_graph_triton(
    similarity: TriangleSimilarity,
    lengths: list[int],
    targets: list[int],
    windows: Sequence[torch.Tensor] | None,
    *,
    tau: float,
    tau_relative: bool,
    gamma: float,
    num_rounds: int,
) -> Pool:
    num_images, num_positions, device = len(lengths), sum(lengths), similarity.device
    offsets = offsets_of(lengths)[:-1]
    first_rows, triangles = offsets, similarity.offsets[:-1]
    if windows is not None:
        first_rows, triangles = [0] * num_images, [0] * num_images
    plan = torch.tensor([offsets, lengths, targets, first_rows, triangles])
    num_blocks = triton.cdiv(max(1, max(lengths) // 2 + 1), BLOCK_TILE)
    num_programs = num_waiting_programs(device)
    num_teams = min(num_images, num_programs)

    def empty(*shape: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    pool = Pool(
        rows=empty(num_positions, dtype=torch.int64),
        counts=empty(num_images, dtype=torch.int64),
    )
    launch_phases(
        _reduce_kernel,
        num_teams * (num_programs // num_teams),
        1 + 3 * num_rounds,
        device,
        similarity_ptr=similarity.values,
        plan_ptr=to_device(plan, device),
        order_ptr=None if windows is None else to_device(torch.cat(list(windows)), device),
        rows_ptr=pool.rows,
        counts_ptr=pool.counts,
        open_ptr=empty(num_images, dtype=torch.int32),
        sums_ptr=empty(num_images, num_blocks**2, dtype=torch.float32),
        degree_ptr=empty(num_blocks, num_positions, dtype=torch.int32),
        strength_ptr=empty(num_blocks, num_positions, dtype=torch.float32),
        arrivals_ptr=torch.zeros(num_teams, dtype=torch.int32, device=device),
        tau=float(tau),
        tau_relative=int(tau_relative),
        gamma=float(gamma),
        num_images=num_images,
        num_positions=num_positions,
        max_tiles=num_blocks**2,
        num_teams=num_teams,
        num_rounds=num_rounds,
        MAX_DROP=MAX_DROP,
        DUPLICATE_SIMILARITY=DUPLICATE_SIMILARITY,
        BLOCK_TILE=BLOCK_TILE,
        BLOCK_SUMS=BLOCK_SUMS,
        BLOCK_PAIRS=pair_class(max(lengths)),
        num_warps=NUM_WARPS,
        maxnreg=NUM_REGISTERS,
    )
    return pool


def pair_class(longest: int) -> int:
    """Pairs that the dropping program takes of an image with that many tokens, or with fewer."""
    return size_class(-(-longest // 2), PAIR_CLASSES)
