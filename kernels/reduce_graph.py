"""GSP: drop tokens that others can stand for, round after round, until a pool is left.

Each round splits the survivors into src and dst by alternating position, swaps the roles of the
round before, and drops the most redundant src tokens (redundancy.py). dst is not touched, so
whatever a round drops has a neighbour that the round keeps: a large wall or sky is thinned and
never deleted.

Source: Script (arXiv 2512.01949), with tau 0.2 absolute and gamma 1. The published code scores
all tokens at once and keeps the redundant ones; this is the method, not that code.

How many survive a round is known on the device only, and the host never asks. Triton runs all
rounds of all images in one launch; _reduce_graph_kernel.py has it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from ._cosine import loads_vectors, tile_constants
from ._phases import run_phases
from ._reduce_graph_kernel import _reduce_kernel
from ._sizes import MAX_TOKENS, size_class
from ._triton import Backend, check_features, triton, use_triton
from ._varlen import check_budgets, check_lengths, image_class, offsets_of
from .norms import inverse_norms, unit_rows
from .redundancy import bipartite_redundancy_reference
from .transfer import to_device

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

# Features whose means a program takes, and tokens it reads at once, in vectors or value by value.
# Not yet tuned on a GPU.
BLOCK_FEATURES, BLOCK_TOKENS, BLOCK_TOKENS_BY_VALUE = 32, 256, 64

# Pairs of tokens that the dropping program is compiled for: one kernel for all usual images.
PAIR_CLASSES = (2048, MAX_TOKENS // 2)

# Programs where there is no GPU to count on, that is in the interpreter; more than one, to test.
INTERPRETED_PROGRAMS = 3


class Pool(NamedTuple):
    """The tokens that are left of each image; how many they are stays on the device."""

    rows: torch.Tensor
    """[N] int64: first the rows left of image 0, ascending, at the place of its own first row,
    and so on. What stands behind the rows of an image is not defined."""

    counts: torch.Tensor
    """[images] int64: rows left of each image."""


def reduce_graph(
    x: torch.Tensor,
    target: int | Sequence[int],
    *,
    tau: float,
    tau_relative: bool,
    gamma: float,
    lengths: Sequence[int] | None = None,
    inverse_norm: torch.Tensor | None = None,
    num_rounds: int = MAX_ROUNDS,
    backend: Backend = "auto",
) -> Pool:
    """Drop redundant tokens until `target` survive, or until none has an edge.

    Many images: the tokens of all, one after the other, the lengths, and a target for each.

    Args:
        x: [N, D] float32/float16/bfloat16, last dim contiguous, rows of any length and stride.
            A feature that is NaN or infinite counts as 0.
        target: tokens wanted, in [1, N]; where lengths are given, one for each image.
        tau: smallest similarity that makes an edge.
        tau_relative: count tau from the mean similarity of the round's graph, instead of from 0.
        gamma: how much close neighbours outweigh many.
        lengths: tokens of each image; None: one image.
        inverse_norm: `inverse_norms(x)`, where the caller has it.
        num_rounds: at most that many rounds.
        backend: "auto" is Triton on CUDA, else torch. The other two never fall back.

    Returns:
        the pool: `target` tokens of each image, or more where edges or rounds ran out.

    Raises:
        ValueError: a target is not in [1, N], targets, lengths, strides or dtype do not fit, or
            the backend cannot run on x.
        ImportError: backend is "triton" and Triton is not installed.
    """
    check_features("x", x)
    lengths = check_lengths(lengths, len(x), "lengths")
    targets = check_budgets("target", target, lengths, lengths)
    if use_triton(backend, x):
        if inverse_norm is None:
            inverse_norm = inverse_norms(x, "triton")
        return _reduce_graph_triton(
            x, inverse_norm, lengths, targets, tau, tau_relative, gamma, num_rounds
        )
    unit = unit_rows(x, inverse_norm)
    rows, counts, first = torch.arange(len(x), device=x.device), [], 0
    for image, own_target in zip(unit.split(lengths), targets, strict=True):
        survivors = reduce_graph_reference(
            image,
            own_target,
            tau=tau,
            tau_relative=tau_relative,
            gamma=gamma,
            num_rounds=num_rounds,
        )
        rows[first : first + len(survivors)] = first + survivors
        counts.append(len(survivors))
        first += len(image)
    return Pool(rows, torch.tensor(counts, device=x.device))


def reduce_graph_reference(
    unit: torch.Tensor,
    target: int,
    *,
    tau: float,
    tau_relative: bool,
    gamma: float,
    num_rounds: int = MAX_ROUNDS,
) -> torch.Tensor:
    """`reduce_graph` of one image's unit rows [N, D] float32 in plain PyTorch; any device.

    Returns the surviving rows int64, ascending.
    """
    survivors = torch.arange(len(unit), device=unit.device)
    for round_index in range(num_rounds):
        if len(survivors) <= target:
            break
        num_before = len(survivors)
        survivors = reduce_once_reference(
            unit,
            survivors,
            target,
            src_parity=round_index % 2,
            tau=tau,
            tau_relative=tau_relative,
            gamma=gamma,
        )
        # An idle round found no edge, and swapped roles would look at the same edges again.
        if len(survivors) == num_before:
            break
    return survivors


def reduce_once_reference(
    unit: torch.Tensor,
    survivors: torch.Tensor,
    target: int,
    *,
    src_parity: int,
    tau: float,
    tau_relative: bool,
    gamma: float,
) -> torch.Tensor:
    """One round: drop up to half of src, most redundant first, lowest index on ties.

    Only tokens with an edge are dropped. src_parity 0 makes the even positions among the
    survivors src, 1 the odd ones.
    """
    src, dst = survivors[src_parity::2], survivors[1 - src_parity :: 2]
    rows = unit if len(survivors) == len(unit) else unit[survivors]
    src_rows, dst_rows = rows[src_parity::2], rows[1 - src_parity :: 2]
    threshold = edge_threshold(src_rows, dst_rows, tau, tau_relative)
    redundancy = bipartite_redundancy_reference(src_rows, dst_rows, threshold, gamma)
    order = redundancy.argsort(descending=True, stable=True)
    num_redundant = int((redundancy > 0).sum())
    most = math.ceil(MAX_DROP * len(src))
    num_dropped = min(num_redundant, most, len(survivors) - target)
    return torch.cat([dst, src[order[num_dropped:]]]).sort().values


def edge_threshold(
    src: torch.Tensor, dst: torch.Tensor, tau: float, tau_relative: bool
) -> float | torch.Tensor:
    """Smallest similarity that makes an edge; relative: tau above the mean of src @ dst.T."""
    if not tau_relative:
        return min(tau, DUPLICATE_SIMILARITY)
    mean_similarity = src.mean(0) @ dst.mean(0)
    return (mean_similarity + tau).clamp(max=DUPLICATE_SIMILARITY)


def _reduce_graph_triton(
    x: torch.Tensor,
    inverse_norm: torch.Tensor,
    lengths: list[int],
    targets: list[int],
    tau: float,
    tau_relative: bool,
    gamma: float,
    num_rounds: int,
) -> Pool:
    num_images, (num_rows, dim), device = len(lengths), x.shape, x.device
    tile = tile_constants(x)
    most_pairs = triton.cdiv(max(lengths), 2)
    most_tiles = triton.cdiv(most_pairs, tile["BLOCK_B"])
    num_parts = triton.cdiv(dim, BLOCK_FEATURES)
    degree = torch.empty(most_tiles, num_rows, dtype=torch.int32, device=device)
    strength = torch.empty(most_tiles, num_rows, dtype=torch.float32, device=device)
    mean_parts = torch.empty(num_images, num_parts, dtype=torch.float32, device=device)
    pool = Pool(
        torch.empty(num_rows, dtype=torch.int64, device=device),
        torch.empty(num_images, dtype=torch.int64, device=device),
    )
    run_phases(
        _reduce_kernel,
        num_programs(device),
        1 + 3 * num_rounds,
        x,
        x.stride(0),
        inverse_norm,
        to_device(torch.tensor([offsets_of(lengths), [*targets, 0]]), device),
        pool.rows,
        pool.counts,
        torch.empty(num_images, dtype=torch.int32, device=device),
        mean_parts,
        degree,
        strength,
        torch.zeros(1, dtype=torch.int32, device=device),
        float(tau),
        int(tau_relative),
        float(gamma),
        num_images,
        num_rows,
        dim,
        num_rounds,
        MAX_DROP=MAX_DROP,
        DUPLICATE_SIMILARITY=DUPLICATE_SIMILARITY,
        BLOCK_IMAGES=image_class(num_images),
        BLOCK_FEATURES=BLOCK_FEATURES,
        BLOCK_TOKENS=BLOCK_TOKENS if loads_vectors(x) else BLOCK_TOKENS_BY_VALUE,
        BLOCK_PARTS=triton.next_power_of_2(num_parts),
        BLOCK_PAIRS=pair_class(max(lengths)),
        **tile,
    )
    return pool


def pair_class(longest: int) -> int:
    """Pairs that the dropping program takes of an image with that many tokens, or with fewer."""
    return size_class(-(-longest // 2), PAIR_CLASSES)


def num_programs(device: torch.device) -> int:
    """One program a multiprocessor: its tiles take most of the shared memory of one."""
    if device.type != "cuda":
        return INTERPRETED_PROGRAMS
    return torch.cuda.get_device_properties(device).multi_processor_count
