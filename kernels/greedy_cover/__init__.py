"""Greedy coverage: tokens that stand for all tokens of an image, by what each needs.

What a token j stands for of a token i is the share that j has of all that is like i,

    likeness_ij = exp((S_ij - 1) / temperature)
    cover_ij    = likeness_ij / (the sum of likeness_ik over all k of the image)

S the cosine similarity: a softmax over each row of S. Every step takes the token with the largest

    gain_j = sum over i of weight_i * max(0, cover_ij - the largest cover_is of a pick s)

This is the greedy algorithm of the weighted facility location problem, a submodular one.

Source: MMTok, arXiv 2508.18264, covers the image's tokens like this, with a weight of 1 and
a temperature of 0.2; beside them it covers the words of the question. Differs: here the question
says how much each token's cover counts. Gains only fall, so most are not computed anew
(lazy greedy, Minoux 1978); the picks are the same.

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
from ..relevance import unit_peak
from ..similarity import Similarity, TriangleSimilarity
from ..transfer import to_device
from .kernel import _cover_kernel

# MMTok's, for cosines of visual tokens.
TEMPERATURE = 0.2

# A cosine above this is that of a row and its copy, which float32 has as 1 but for rounding, and
# counts as 1: else copies would not tie, since the cosine of a row with itself is 1 exactly.
COPY = 1 - 1e-5

# Values of the tile of the first bounds, tokens that a gain is added up of at once, warps. Not yet
# tuned on a GPU.
TILE_VALUES, BLOCK_OTHERS, NUM_WARPS = 4096, 1024, 8

# Registers of a thread: the compiler must not save any for a second program on the multiprocessor,
# for there is none.
NUM_REGISTERS = 255

# Gains that the reference computes anew at once, always as many: of other numbers of rows PyTorch
# might add up a row in another order.
REFERENCE_GAINS = 32


def greedy_cover(
    similarity: Similarity, budgets: Sequence[int], weight: torch.Tensor | None = None
) -> torch.Tensor:
    """Pick tokens of each image; ties go to the lowest index. Triton never waits for the device.

    Args:
        similarity: of the N tokens of each image.
        budgets: tokens to pick of each image, in [1, N].
        weight: [sum of N] float32, finite and >= 0, high = to be covered. Its scale in an image
            does not matter. None or a constant: all the same.

    Returns:
        picked rows [sum of budgets] int64, image by image, in pick order. Rows are numbered from
        the first row of the first image.

    Raises:
        ValueError: a budget is not in [1, N], or budgets do not fit the images.
    """
    budgets = check_budgets("budget", budgets, similarity.lengths, similarity.lengths)
    if weight is None:
        weight = torch.ones(sum(similarity.lengths), device=similarity.device, dtype=torch.float32)
    weight = torch.cat([unit_peak(own) for own in weight.float().split(similarity.lengths)])
    with_torch = partial(_greedy_cover_torch, similarity, budgets, weight)
    if not isinstance(similarity, TriangleSimilarity):
        return with_torch()
    with_triton = partial(_greedy_cover_triton, similarity, budgets, weight)
    return run_op("greedy_cover", similarity.backend, similarity.values, with_triton, with_torch)


def _greedy_cover_torch(
    similarity: Similarity, budgets: list[int], weight: torch.Tensor
) -> torch.Tensor:
    picks, first = [], 0
    weights = weight.split(similarity.lengths)
    for image, (own, budget) in enumerate(zip(weights, budgets, strict=True)):
        rows = torch.arange(len(own), device=similarity.device)
        cosines = similarity.block(image, rows, rows)
        picks.append(first + greedy_cover_reference(cosines, budget, own))
        first += len(own)
    return torch.cat(picks)


def greedy_cover_reference(
    similarity: torch.Tensor, budget: int, weight: torch.Tensor
) -> torch.Tensor:
    """`greedy_cover` of one image in plain PyTorch, float32 throughout; any device.

    A gain is a sum of terms that fall, in one order, and rounding keeps the order of two sums: it
    falls as it is computed, too. So what it was is a bound of what it is. A gain is computed anew
    only where its bound is no less than the best that is known.

    Args:
        similarity: [N, N] cosines.
        weight: [N], at most 1.
    """
    num_tokens = len(similarity)
    likeness = similarity.masked_fill(similarity > COPY, 1).sub_(1)  # [N, N], symmetric
    likeness.div_(TEMPERATURE).exp_()
    need = weight / likeness.sum(1)
    # These sums are in another order.
    bound = torch.mv(likeness, need).mul_(1 + num_tokens * 2**-22)
    covered = torch.zeros_like(weight)
    is_left = torch.ones_like(weight, dtype=torch.bool)
    picks: list[int] = []
    for _ in range(budget):
        is_gain = bound <= 0
        while True:
            open_bound, at = bound.masked_fill(is_gain, -1).topk(min(REFERENCE_GAINS, num_tokens))
            known = bound.masked_fill(~(is_gain & is_left), -1)
            if float(open_bound[0]) < float(known.amax()) or float(open_bound[0]) <= 0:
                break
            gains = (likeness.index_select(0, at) - covered).clamp_(min=0).mul_(need).sum(1)
            bound[at] = torch.where(is_gain[at], bound[at], gains)
            is_gain[at] = True
        pick = int(known.argmax())  # the first of equal ones
        picks.append(pick)
        is_left[pick] = False
        bound[pick] = 0.0
        covered = torch.maximum(covered, likeness[pick])
    return torch.tensor(picks, dtype=torch.int64, device=similarity.device)


def _greedy_cover_triton(
    similarity: TriangleSimilarity, budgets: list[int], weight: torch.Tensor
) -> torch.Tensor:
    lengths, device = similarity.lengths, similarity.device
    num_waiting, num_rows = num_waiting_programs(device), sum(lengths)
    first_rows, first_picks = offsets_of(lengths), offsets_of(budgets)

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    picks = empty(first_picks[-1], dtype=torch.int64)
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
            _cover_kernel,
            num_programs(own_lengths, block_tokens, num_waiting),
            most + 2,
            device,
            similarity_ptr=similarity.values,
            weight_ptr=weight,
            plan_ptr=to_device(torch.tensor(plan), device),
            need_ptr=empty(num_rows),
            covered_ptr=empty(num_rows, block_programs),
            bound_ptr=empty(num_rows),
            words_ptr=empty(len(places), 2, block_programs, dtype=torch.int64),
            arrivals_ptr=torch.zeros(len(places), dtype=torch.int32, device=device),
            picks_ptr=picks,
            sharpness=1 / TEMPERATURE,
            num_images=len(places),
            num_phases=most + 2,
            BLOCK_N=block_tokens,
            BLOCK_TILE=max(1, TILE_VALUES // block_tokens),
            BLOCK_OTHERS=BLOCK_OTHERS,
            BLOCK_PROGRAMS=block_programs,
            COPY=COPY,
            num_warps=NUM_WARPS,
            maxnreg=NUM_REGISTERS,
        )
    return picks
