"""The Triton kernel of greedy coverage: all picks of all images in one launch.

Programs share an image, each owns a stretch of its tokens as candidates. A step takes one exchange
(_posts.py). How well the picks cover each token of the image every program keeps for itself, in
memory that nobody else reads, so that nobody waits for it.

Gains only fall, also as they are computed: each is a sum of terms that fall, in one order, and
rounding keeps the order of two sums. So what a gain was is a bound of what it is, and a program
computes anew only the gains whose bound is no less than the best that it has computed. The
first bounds are of sums in another order, and a little larger for it.
"""

from __future__ import annotations

from .._launch import arrive, member_of, wait
from .._posts import best_row, post_best
from .._triton import jit, tl
from ..similarity.kernel import triangle_offset


@jit(varying=("num_images", "num_phases", "first_phase"))
def _cover_kernel(
    similarity_ptr,
    weight_ptr,
    plan_ptr,
    need_ptr,
    covered_ptr,
    bound_ptr,
    words_ptr,
    arrivals_ptr,
    picks_ptr,
    sharpness,
    num_images,
    num_phases,
    first_phase,
    TOGETHER: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_TILE: tl.constexpr,
    BLOCK_OTHERS: tl.constexpr,
    BLOCK_PROGRAMS: tl.constexpr,
    COPY: tl.constexpr,
):
    """All steps of some images. Phase 0 weighs needs, phase 1 posts, the others pick and post.

    weight float32 [sum of N]
    plan int64 [5, images]: first row, length, first pick, budget, start of the triangle
    need, bound float32 [sum of N]: what all programs of the image read, and what outlives a phase
        that is a launch of its own
    covered float32 [sum of N, BLOCK_PROGRAMS]: of each program what is covered
    words int64 [images, 2, BLOCK_PROGRAMS]: the posts, in turns
    arrivals int32 [images], all 0
    picks int64 [sum of budgets]: written by the first program of each image
    grid: any number of programs that has one for every BLOCK_N tokens of each image
    """
    slot = 0
    for image in range(0, num_images):
        first = tl.load(plan_ptr + image)
        num_tokens = tl.load(plan_ptr + num_images + image).to(tl.int32)
        num_owners = (num_tokens + BLOCK_N - 1) // BLOCK_N
        member, slot = member_of(slot, num_owners)
        if (member >= 0) & (member < num_owners):
            _select_image(
                member,
                num_owners,
                num_tokens,
                tl.load(plan_ptr + 3 * num_images + image).to(tl.int32),
                first,
                similarity_ptr + tl.load(plan_ptr + 4 * num_images + image),
                weight_ptr + first,
                need_ptr + first,
                covered_ptr + first * BLOCK_PROGRAMS + member * num_tokens,
                bound_ptr + first,
                words_ptr + image * 2 * BLOCK_PROGRAMS,
                arrivals_ptr + image,
                picks_ptr + tl.load(plan_ptr + 2 * num_images + image),
                sharpness,
                num_phases,
                first_phase,
                TOGETHER,
                BLOCK_N,
                BLOCK_TILE,
                BLOCK_OTHERS,
                BLOCK_PROGRAMS,
                COPY,
            )


@jit
def _select_image(
    member,
    num_owners,
    num_tokens,
    budget,
    first,
    triangle_ptr,
    weight_ptr,
    need_ptr,
    covered_ptr,
    bound_ptr,
    words_ptr,
    arrivals_ptr,
    picks_ptr,
    sharpness,
    num_phases,
    first_phase,
    TOGETHER: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_TILE: tl.constexpr,
    BLOCK_OTHERS: tl.constexpr,
    BLOCK_PROGRAMS: tl.constexpr,
    COPY: tl.constexpr,
):
    """The steps of one image, of whose tokens this program owns up to BLOCK_N.

    All pointers are to what is of the image: rows are numbered from its first one, int32.
    """
    token = member * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = token < num_tokens
    row = tl.minimum(token, num_tokens - 1)
    bound = tl.full([BLOCK_N], -1.0, dtype=tl.float32)  # and so it is of picked tokens
    last_phase = num_phases
    if not TOGETHER:
        last_phase = first_phase + 1
        if first_phase > 1:
            bound = tl.load(bound_ptr + row, mask=mask, other=-1.0)

    if first_phase == 0:
        total = tl.zeros([BLOCK_N], dtype=tl.float32)
        for start in range(0, num_tokens, BLOCK_TILE):
            tile = _tile(triangle_ptr, row, start, num_tokens, sharpness, BLOCK_TILE, COPY)
            total += tl.sum(tile, 1)
        tl.store(need_ptr + row, tl.load(weight_ptr + row) / total, mask=mask)
        if TOGETHER:
            arrive(arrivals_ptr)
    phase = tl.maximum(first_phase, 1)
    while (phase < last_phase) & (phase <= budget + 1):
        if TOGETHER:
            wait(arrivals_ptr, phase * num_owners)
        if phase == 1:
            bound = _first_bounds(
                triangle_ptr, need_ptr, row, num_tokens, sharpness, BLOCK_N, BLOCK_TILE, COPY
            )
            bound = tl.where(mask, bound, -1.0)
            for start in range(0, num_tokens, BLOCK_OTHERS):
                other = start + tl.arange(0, BLOCK_OTHERS)
                nothing = tl.zeros([BLOCK_OTHERS], dtype=tl.float32)
                tl.store(covered_ptr + other, nothing, mask=other < num_tokens)
        else:
            pick = best_row(words_ptr + (phase % 2) * BLOCK_PROGRAMS, num_owners, BLOCK_PROGRAMS)
            bound = tl.where(row == pick, -1.0, bound)
            _cover(triangle_ptr, covered_ptr, pick, num_tokens, sharpness, BLOCK_OTHERS, COPY)
            if member == 0:
                tl.store(picks_ptr + phase - 2, first + pick)
        tl.debug_barrier()  # other threads of this program read what is covered
        if phase <= budget:
            # A bound of 0 is the gain, and so is -1, of what is no candidate.
            is_gain = bound <= 0.0
            best = tl.max(tl.where(is_gain, bound, -2.0), 0)
            open_bound = tl.max(tl.where(is_gain, -2.0, bound), 0)
            while (open_bound >= best) & (open_bound > 0.0):
                at_bound = (bound == open_bound) & (is_gain == 0)
                candidate = tl.min(tl.where(at_bound, row, num_tokens), 0)
                gain = _gain(
                    *(triangle_ptr, need_ptr, covered_ptr, candidate),
                    *(num_tokens, sharpness, BLOCK_OTHERS, COPY),
                )
                bound = tl.where(row == candidate, gain, bound)
                is_gain = is_gain | (row == candidate)
                best = tl.max(tl.where(is_gain, bound, -2.0), 0)
                open_bound = tl.max(tl.where(is_gain, -2.0, bound), 0)
            post_ptr = words_ptr + ((phase + 1) % 2) * BLOCK_PROGRAMS + member
            post_best(post_ptr, row, tl.maximum(bound, 0.0), mask & is_gain & (bound >= 0.0))
            if TOGETHER:
                arrive(arrivals_ptr)
        phase += 1

    if not TOGETHER:
        tl.store(bound_ptr + row, bound, mask=mask)


@jit
def _likeness(cosine, sharpness, COPY: tl.constexpr):
    """exp((cosine - 1) * sharpness), in (0, 1]."""
    return tl.exp((tl.where(cosine > COPY, 1.0, cosine) - 1.0) * sharpness)


@jit
def _tile(
    triangle_ptr,
    row,
    start,
    num_tokens,
    sharpness,
    BLOCK_TILE: tl.constexpr,
    COPY: tl.constexpr,
):
    """Likeness of rows to BLOCK_TILE others; 0 past the end."""
    other = start + tl.arange(0, BLOCK_TILE)[None, :]
    high, low = tl.maximum(row[:, None], other), tl.minimum(row[:, None], other)
    is_other = (other < num_tokens) & (row[:, None] >= 0)
    cosines = tl.load(triangle_ptr + triangle_offset(high, low), mask=is_other, other=0.0)
    return tl.where(is_other, _likeness(cosines, sharpness, COPY), 0.0)


@jit
def _first_bounds(
    triangle_ptr,
    need_ptr,
    row,
    num_tokens,
    sharpness,
    BLOCK_N: tl.constexpr,
    BLOCK_TILE: tl.constexpr,
    COPY: tl.constexpr,
):
    """No less than the gain that will be computed of each row, where nothing is covered."""
    bound = tl.zeros([BLOCK_N], dtype=tl.float32)
    for start in range(0, num_tokens, BLOCK_TILE):
        likeness = _tile(triangle_ptr, row, start, num_tokens, sharpness, BLOCK_TILE, COPY)
        other = start + tl.arange(0, BLOCK_TILE)
        # Other programs weighed these in this launch.
        need = tl.load(need_ptr + other, mask=other < num_tokens, other=0.0, cache_modifier=".cg")
        bound += tl.sum(likeness * need[None, :], 1)
    return bound * (1.0 + num_tokens * 2.0**-22)


@jit
def _cover(
    triangle_ptr,
    covered_ptr,
    pick,
    num_tokens,
    sharpness,
    BLOCK_OTHERS: tl.constexpr,
    COPY: tl.constexpr,
):
    """Note of every token of the image what the pick covers of it."""
    for start in range(0, num_tokens, BLOCK_OTHERS):
        other = start + tl.arange(0, BLOCK_OTHERS)
        mask = other < num_tokens
        likeness = _row(triangle_ptr, pick, other, mask, sharpness, COPY)
        covered = tl.load(covered_ptr + other, mask=mask, other=0.0)
        tl.store(covered_ptr + other, tl.maximum(covered, likeness), mask=mask)


@jit
def _gain(
    triangle_ptr,
    need_ptr,
    covered_ptr,
    candidate,
    num_tokens,
    sharpness,
    BLOCK_OTHERS: tl.constexpr,
    COPY: tl.constexpr,
):
    """What a candidate would cover that is not covered, weighed by need."""
    gains = tl.zeros([BLOCK_OTHERS], dtype=tl.float32)
    for start in range(0, num_tokens, BLOCK_OTHERS):
        other = start + tl.arange(0, BLOCK_OTHERS)
        mask = other < num_tokens
        likeness = _row(triangle_ptr, candidate, other, mask, sharpness, COPY)
        covered = tl.load(covered_ptr + other, mask=mask, other=0.0)
        need = tl.load(need_ptr + other, mask=mask, other=0.0, cache_modifier=".cg")
        gains += tl.maximum(likeness - covered, 0.0) * need
    return tl.sum(gains, 0)


@jit
def _row(triangle_ptr, row, other, mask, sharpness, COPY: tl.constexpr):
    """Likeness of one row to others."""
    high, low = tl.maximum(row, other), tl.minimum(row, other)
    cosines = tl.load(triangle_ptr + triangle_offset(high, low), mask=mask, other=0.0)
    return _likeness(cosines, sharpness, COPY)
