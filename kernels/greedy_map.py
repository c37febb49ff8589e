"""Greedy MAP of a determinantal point process: tokens that are relevant and unlike each other.

L = diag(r) S diag(r), S the cosine similarity. Every step takes the token with the largest
residual variance (what its own L[i, i] has left after the picked ones are projected out).

Source: Chen et al. 2018 (arXiv 1709.05135), Algorithm 1: an incremental Cholesky factor, one
row a pick, O(budget^2 N) time and O(budget N) memory beside S.

Triton takes two launches for all images together: the similarities S, a triangle, and all steps.
_greedy_map_kernels.py says how the programs of an image take a step together.

In a video the frames may have floors: tokens that each is sure to keep. They are picked first, the
best of the whole video at every step, and what follows knows of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ._cosine import tile_constants
from ._greedy_map_kernels import _select_kernel, _similarity_kernel
from ._phases import run_phases
from ._sizes import size_class
from ._triton import Backend, check_features, triton, use_triton
from ._varlen import check_budgets, check_lengths, offsets_of
from .norms import inverse_norms, unit_rows
from .reduce_graph import Pool
from .transfer import to_device

# Residuals below this part of the first one are rounding: the picks already span the tokens.
RESIDUAL_FLOOR = 1e-6

# Tokens of an image that one of its programs owns, where there are multiprocessors enough, and
# most programs of an image: each of them reads a word of every other at every step. Not yet
# tuned on a GPU.
TOKENS_PER_PROGRAM, MAX_PROGRAMS = 64, 64

# Values of the factor that a program keeps in registers, and that it takes at once of the rest.
# Not yet tuned on a GPU.
RESIDENT_VALUES, CHUNK_VALUES, SELECT_WARPS = 32768, 4096, 8

# Relevance that a program reads at once, when it looks for the largest.
BLOCK_RELEVANCE = 4096

# Multiprocessors to reckon with where there is no GPU, that is in the interpreter.
INTERPRETED_MULTIPROCESSORS = 12

# Values: rows of the factor start 128 bytes apart, so that no two share a cache line.
ROW_ALIGNMENT = 32


def greedy_map(
    x: torch.Tensor,
    relevance: torch.Tensor | None,
    budget: int | Sequence[int],
    *,
    lengths: Sequence[int] | None = None,
    pool: Pool | None = None,
    floors: Sequence[int] | None = None,
    inverse_norm: torch.Tensor | None = None,
    backend: Backend = "auto",
) -> torch.Tensor:
    """Pick `budget` tokens; ties go to the lowest index. Triton never waits for the device.

    When the picked tokens span all others, relevance descending fills the remaining places.
    Many images: the tokens of all, one after the other, the lengths, and a budget for each.

    Args:
        x: [N, D] float32/float16/bfloat16, last dim contiguous, rows of any length and stride.
            A feature that is NaN or infinite counts as 0.
        relevance: [N] float32, finite and >= 0, high = keep. Its scale does not matter. None
            or a constant: diversity alone decides.
        budget: tokens to pick, in [1, N]; where lengths are given, one for each image.
        lengths: tokens of each image; None: one image.
        pool: pick among these alone, which must be at least the budget; None: among all. Only
            their relevance counts.
        floors: of a video, whose frames have N / len(floors) tokens each, one after the other:
            the fewest tokens to pick of each frame. The first picks are of frames that have fewer,
            then all compete. A pool must have that many of each. None: no frames.
        inverse_norm: `inverse_norms(x)`, where the caller has it.
        backend: "auto" is Triton on CUDA, else torch. The other two never fall back.

    Returns:
        picked rows of x [sum of budgets] int64, image by image, in pick order; an image of whose
        pool all is picked has them ascending.

    Raises:
        ValueError: a budget is not in [1, N], budgets, lengths, floors, strides or dtype do not
            fit, or the backend cannot run on x.
        ImportError: backend is "triton" and Triton is not installed.
    """
    check_features("x", x)
    lengths = check_lengths(lengths, len(x), "lengths")
    budgets = check_budgets("budget", budget, lengths, lengths)
    if floors is not None:
        _check_floors(floors, lengths, budgets)
    if use_triton(backend, x):
        if inverse_norm is None:
            inverse_norm = inverse_norms(x, "triton")
        return _greedy_map_triton(x, inverse_norm, relevance, budgets, lengths, pool, floors)
    if inverse_norm is None:
        inverse_norm = inverse_norms(x, "torch")
    picks, first = [], 0
    for image, (length, own_budget) in enumerate(zip(lengths, budgets, strict=True)):
        if pool is None:
            rows = torch.arange(first, first + length, device=x.device)
        else:
            rows = pool.rows[first : first + int(pool.counts[image])]
        if pool is not None and len(rows) == own_budget:
            picks.append(rows)
        else:
            unit = unit_rows(x[rows], inverse_norm[rows])
            own_relevance = None if relevance is None else relevance[rows]
            frame = None if floors is None else rows // (length // len(floors))
            own_picks = greedy_map_reference(unit, own_relevance, own_budget, frame, floors)
            picks.append(rows[own_picks])
        first += length
    return torch.cat(picks)


def greedy_map_reference(
    unit: torch.Tensor,
    relevance: torch.Tensor | None,
    budget: int,
    frame: torch.Tensor | None = None,
    floors: Sequence[int] | None = None,
) -> torch.Tensor:
    """`greedy_map` of one image's unit rows in plain PyTorch, float32 throughout; any device.

    frame: of a video, [N] int64, the number of each row's frame.
    """
    num_tokens = len(unit)
    weight = unit.new_ones(num_tokens) if relevance is None else _unit_peak(relevance)
    kernel = unit @ unit.T  # [N, N]
    kernel.mul_(weight[:, None]).mul_(weight)
    # The cosine of a row with itself is 1, or 0 for a zero row; the product rounds it, and would
    # break ties by that noise.
    residual = torch.where(unit.any(1), weight.square(), 0.0)
    floor = RESIDUAL_FLOOR * residual.max()
    factor = unit.new_empty(budget, num_tokens)
    picks = torch.empty(budget, dtype=torch.int64, device=unit.device)
    peaks = unit.new_empty(budget)
    num_certain, room = sum(floors or ()), torch.tensor(floors or (), device=unit.device)
    for step in range(budget):
        peak, pick = peaks[step : step + 1], picks[step : step + 1]
        score = residual
        if frame is not None and step < num_certain:
            score = _score_where_room(residual, weight, floor, room[frame] > 0)
        torch.max(score, 0, keepdim=True, out=(peak, pick))  # the first of equal ones
        if frame is not None and step < num_certain:
            room[frame[pick]] -= 1
        row, before = factor[step], factor[:step]
        projection = before.index_select(1, pick)[:, 0]  # [step]
        torch.addmv(kernel.index_select(0, pick)[0], before.T, projection, alpha=-1, out=row)
        # At the floor the row is zeroed, not divided by rounding: later picks do not count.
        row.mul_(torch.where(peak > floor, peak.rsqrt(), 0.0))
        residual.addcmul_(row, row, value=-1).index_fill_(0, pick, -torch.inf)
    num_valid = num_certain + (peaks[num_certain:] > floor).sum()
    return _fill_by_weight(picks, num_valid, weight)


def _score_where_room(
    residual: torch.Tensor, weight: torch.Tensor, floor: torch.Tensor, has_room: torch.Tensor
) -> torch.Tensor:
    """What the largest of is picked: the residual, or below all of them the weight, in [0, 1]."""
    score = torch.where(residual > floor, residual, weight - 2)
    return score.masked_fill(~has_room | residual.isneginf(), -torch.inf)


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


def _unit_peak(relevance: torch.Tensor) -> torch.Tensor:
    """Scale relevance to a maximum of 1, so that its square stays in float32; constant: ones."""
    low, high = relevance.aminmax()
    return torch.where(low == high, 1.0, relevance / high)


def _fill_by_weight(
    picks: torch.Tensor, num_valid: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """Replace picks after the first `num_valid` by the heaviest tokens not among those."""
    place = torch.arange(len(picks), device=picks.device)
    valid = place < num_valid
    taken = torch.zeros(len(weight), dtype=torch.bool, device=weight.device)
    taken[picks] = valid
    rest = weight.masked_fill(taken, -torch.inf).argsort(descending=True, stable=True)
    return torch.where(valid, picks, rest[(place - num_valid).clamp(min=0)])


def _greedy_map_triton(
    x: torch.Tensor,
    inverse_norm: torch.Tensor,
    relevance: torch.Tensor | None,
    budgets: list[int],
    lengths: list[int],
    pool: Pool | None,
    floors: Sequence[int] | None,
) -> torch.Tensor:
    num_images, longest, device = len(lengths), max(lengths), x.device
    if relevance is None:
        relevance = torch.ones(len(x), dtype=torch.float32, device=device)
    rows, counts = (None, None) if pool is None else pool
    # Lower triangles of the similarities, one after the other; values of the factor, one row a
    # token; and one word of every program of an image for each phase.
    triangles = offsets_of(length * (length + 1) // 2 for length in lengths)
    num_phases = max(budgets) + 1
    plan = to_device(torch.tensor([offsets_of(lengths), offsets_of(budgets), triangles]), device)
    similarity = torch.empty(triangles[-1], dtype=torch.float32, device=device)
    tile = tile_constants(x)
    num_blocks = triton.cdiv(longest, tile["BLOCK_A"])
    _similarity_kernel[(num_blocks, num_blocks, num_images)](
        x,
        x.stride(0),
        inverse_norm,
        plan,
        rows,
        counts,
        similarity,
        num_images,
        x.shape[1],
        **tile,
    )
    num_multiprocessors = multiprocessors(device)
    num_programs = programs_per_image(longest, num_images, num_multiprocessors)
    block_tokens = token_class(longest, num_programs)
    factor_stride = triton.cdiv(max(budgets), ROW_ALIGNMENT) * ROW_ALIGNMENT
    picks = torch.empty(sum(budgets), dtype=torch.int64, device=device)
    run_phases(
        _select_kernel,
        num_images * num_programs,
        num_phases,
        relevance.float().contiguous(),
        inverse_norm,
        plan,
        rows,
        counts,
        None if floors is None else to_device(torch.tensor(floors, dtype=torch.int32), device),
        1 if floors is None else len(x) // len(floors),
        0 if floors is None else sum(floors),
        similarity,
        torch.empty(len(x), factor_stride, dtype=torch.float32, device=device),
        factor_stride,
        torch.empty(len(x), dtype=torch.float32, device=device),
        None if floors is None else torch.empty(len(x), dtype=torch.int32, device=device),
        torch.zeros(num_images, num_phases, MAX_PROGRAMS, dtype=torch.int64, device=device),
        picks,
        RESIDUAL_FLOOR,
        num_images,
        num_programs,
        num_phases,
        # Programs wait for each other, which takes room for all; one alone may, and then does too.
        cooperative=num_images * num_programs <= num_multiprocessors,
        BLOCK_N=block_tokens,
        BLOCK_K=max(1, RESIDENT_VALUES // block_tokens),
        BLOCK_CHUNK=max(1, CHUNK_VALUES // block_tokens),
        BLOCK_PROGRAMS=MAX_PROGRAMS,
        BLOCK_RELEVANCE=BLOCK_RELEVANCE,
        num_warps=SELECT_WARPS,
    )
    return picks


def programs_per_image(longest: int, num_images: int, num_multiprocessors: int) -> int:
    """Programs that select in one image together: all of them must be on the chip at once."""
    wanted = -(-longest // TOKENS_PER_PROGRAM)
    return max(1, min(wanted, MAX_PROGRAMS, num_multiprocessors // num_images))


def token_class(longest: int, num_programs: int) -> int:
    """Tokens that a program takes of an image with that many tokens, or with fewer."""
    return size_class(-(-longest // num_programs), (TOKENS_PER_PROGRAM,))


def multiprocessors(device: torch.device) -> int:
    """Multiprocessors of a GPU; elsewhere, that is in the interpreter, some number of them."""
    if device.type != "cuda":
        return INTERPRETED_MULTIPROCESSORS
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
