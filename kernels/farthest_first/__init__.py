"""Farthest-first traversal: tokens that are as unlike each other as can be.

The first pick is the token whose nearest neighbour is farthest, or that with the largest bonus.
Every other step takes the token with the largest

    bonus[i] + weight[i] * (1 - the cosine of i with its nearest pick)

Source: DivPrune (Alvar et al., CVPR 2025, arXiv 2503.02175) selects so without a bonus and with
weights of 1, which is Gonzalez's traversal (1985) with cosines; vbdi/divprune@799e2d9
LLaVA/llava/model/llava_arch.py:152-175. Cen-Prune (arXiv 2608.30263) has the weights. With a bonus
it is maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998). Differs: the nearest pick is
updated instead of searched again, O(budget N) instead of O(budget^2 N).

Triton takes one launch for all steps of all images, or of those of a class of sizes; kernel.py says
how programs take a step together.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from .._launch import launch_phases, num_waiting_programs, run_op
from .._varlen import check_budgets, offsets_of, places_by
from ..greedy_map import num_programs, program_class, token_class
from ..similarity import Similarity, TriangleSimilarity
from ..transfer import to_device
from .kernel import _farthest_kernel

# Tokens that a program compares its own with at once, for the first pick, and its warps. Not yet
# tuned on a GPU.
BLOCK_OTHERS, NUM_WARPS = 32, 8

# Registers of a thread: the compiler must not save any for a second program on the multiprocessor,
# for there is none.
NUM_REGISTERS = 255


def farthest_first(
    similarity: Similarity,
    budgets: Sequence[int],
    weight: torch.Tensor | None = None,
    bonus: torch.Tensor | None = None,
) -> torch.Tensor:
    """Pick tokens of each image; ties go to the lowest index. Triton never waits for the device.

    Args:
        similarity: of the N tokens of each image.
        budgets: tokens to pick of each image, in [1, N].
        weight: [sum of N] float32, finite and >= 0, high = keep; None: all the same. It has no say
            in the first pick.
        bonus: [sum of N] float32, finite and >= 0, high = keep; None: none, for all.

    Returns:
        picked rows [sum of budgets] int64, image by image, in pick order. Rows are numbered from
        the first row of the first image.

    Raises:
        ValueError: a budget is not in [1, N], or budgets do not fit the images.
    """
    budgets = check_budgets("budget", budgets, similarity.lengths, similarity.lengths)
    if weight is None:
        weight = torch.ones(sum(similarity.lengths), device=similarity.device, dtype=torch.float32)
    weight = weight.float().contiguous()
    bonus = None if bonus is None else bonus.float().contiguous()
    with_torch = partial(_farthest_first_torch, similarity, budgets, weight, bonus)
    if not isinstance(similarity, TriangleSimilarity):
        return with_torch()
    with_triton = partial(_farthest_first_triton, similarity, budgets, weight, bonus)
    return run_op("farthest_first", similarity.backend, similarity.values, with_triton, with_torch)


def _farthest_first_torch(
    similarity: Similarity,
    budgets: list[int],
    weight: torch.Tensor,
    bonus: torch.Tensor | None,
) -> torch.Tensor:
    picks, first = [], 0
    for image, (length, budget) in enumerate(zip(similarity.lengths, budgets, strict=True)):
        rows = torch.arange(length, device=similarity.device)
        own = slice(first, first + length)
        own_picks = farthest_first_reference(
            similarity.block(image, rows, rows),
            budget,
            weight[own],
            None if bonus is None else bonus[own],
        )
        picks.append(first + own_picks)
        first += length
    return torch.cat(picks)


def farthest_first_reference(
    similarity: torch.Tensor,
    budget: int,
    weight: torch.Tensor,
    bonus: torch.Tensor | None,
) -> torch.Tensor:
    """`farthest_first` of one image in plain PyTorch, float32 throughout; any device.

    Args:
        similarity: [N, N] cosines.
        weight: [N].
        bonus: [N] or None.
    """
    if bonus is None:
        nearest_other = similarity.clone().fill_diagonal_(-torch.inf).amax(1)
        first_score, bonus = _distance(nearest_other), torch.zeros_like(weight)
    else:
        first_score = bonus
    pick = first_score.argmax(0, keepdim=True)  # [1], the first of equal ones
    nearest = torch.full_like(weight, -torch.inf)  # cosine with the nearest pick
    is_picked = torch.zeros_like(weight, dtype=torch.bool)
    picks = []
    for _ in range(budget):
        picks.append(pick)
        is_picked.index_fill_(0, pick, True)
        nearest = torch.maximum(nearest, similarity.index_select(0, pick)[0])
        score = bonus + weight * _distance(nearest)
        score.masked_fill_(is_picked, -1.0)
        pick = score.argmax(0, keepdim=True)
    return torch.cat(picks)


def _distance(cosine: torch.Tensor) -> torch.Tensor:
    """1 - cosine; never below 0, where a cosine is rounded to more than 1."""
    return (1 - cosine.clamp(min=-1)).clamp(min=0)


def _farthest_first_triton(
    similarity: TriangleSimilarity,
    budgets: list[int],
    weight: torch.Tensor,
    bonus: torch.Tensor | None,
) -> torch.Tensor:
    lengths, device = similarity.lengths, similarity.device
    num_waiting = num_waiting_programs(device)
    first_rows, first_picks = offsets_of(lengths), offsets_of(budgets)
    picks = torch.empty(first_picks[-1], dtype=torch.int64, device=device)
    nearest = torch.empty(first_rows[-1], dtype=torch.float32, device=device)
    classes = places_by(token_class(length, num_waiting) for length in lengths)
    for block_tokens, places in classes.items():
        own_lengths = [lengths[place] for place in places]
        most = max(budgets[place] for place in places)
        plan = [
            [first_rows[place] for place in places],
            own_lengths,
            [first_picks[place] for place in places],
            [budgets[place] for place in places],
            [similarity.offsets[place] for place in places],
        ]
        block_programs = program_class(max(own_lengths), block_tokens)
        launch_phases(
            _farthest_kernel,
            num_programs(own_lengths, block_tokens, num_waiting),
            most + 1,
            device,
            similarity_ptr=similarity.values,
            weight_ptr=weight,
            bonus_ptr=bonus,
            plan_ptr=to_device(torch.tensor(plan), device),
            nearest_ptr=nearest,
            words_ptr=torch.empty(len(places), 2, block_programs, dtype=torch.int64, device=device),
            arrivals_ptr=torch.zeros(len(places), dtype=torch.int32, device=device),
            picks_ptr=picks,
            num_images=len(places),
            num_phases=most + 1,
            BLOCK_N=block_tokens,
            BLOCK_OTHERS=BLOCK_OTHERS,
            BLOCK_PROGRAMS=block_programs,
            num_warps=NUM_WARPS,
            maxnreg=NUM_REGISTERS,
        )
    return picks
