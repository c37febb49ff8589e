"""The Triton kernel of farthest-first traversal: all picks of all images in one launch.

Programs share an image, each owns a stretch of its tokens and keeps, in registers, how alike each
is to its nearest pick. A step takes one exchange (_posts.py).

Which images run beside each other follows from the lengths: as many as there are programs for, in
their order. What is computed of an image does not depend on the others.
"""

from __future__ import annotations

from .._launch import arrive, member_of, wait
from .._posts import best_row, post_best
from .._triton import jit, tl
from ..similarity.kernel import triangle_offset


@jit(varying=("num_images", "num_phases", "first_phase"))
def _farthest_kernel(
    similarity_ptr,
    weight_ptr,
    bonus_ptr,
    plan_ptr,
    nearest_ptr,
    words_ptr,
    arrivals_ptr,
    picks_ptr,
    num_images,
    num_phases,
    first_phase,
    TOGETHER: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_OTHERS: tl.constexpr,
    BLOCK_PROGRAMS: tl.constexpr,
):
    """All steps of some images. Phase 0 posts; each of the others picks a token and posts.

    weight float32 [sum of N]; bonus likewise, or None
    plan int64 [5, images]: first row, length, first pick, budget, start of the triangle
    nearest float32 [sum of N]: what outlives a phase that is a launch of its own
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
            own_bonus_ptr = bonus_ptr
            if bonus_ptr is not None:
                own_bonus_ptr = bonus_ptr + first
            _select_image(
                member,
                num_owners,
                num_tokens,
                tl.load(plan_ptr + 3 * num_images + image).to(tl.int32),
                first,
                similarity_ptr + tl.load(plan_ptr + 4 * num_images + image),
                weight_ptr + first,
                own_bonus_ptr,
                nearest_ptr + first,
                words_ptr + image * 2 * BLOCK_PROGRAMS,
                arrivals_ptr + image,
                picks_ptr + tl.load(plan_ptr + 2 * num_images + image),
                num_phases,
                first_phase,
                TOGETHER,
                BLOCK_N,
                BLOCK_OTHERS,
                BLOCK_PROGRAMS,
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
    bonus_ptr,
    nearest_ptr,
    words_ptr,
    arrivals_ptr,
    picks_ptr,
    num_phases,
    first_phase,
    TOGETHER: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_OTHERS: tl.constexpr,
    BLOCK_PROGRAMS: tl.constexpr,
):
    """The steps of one image, of whose tokens this program owns up to BLOCK_N.

    All pointers are to what is of the image: rows are numbered from its first one, int32.
    """
    token = member * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = token < num_tokens
    row = tl.minimum(token, num_tokens - 1)
    weight = tl.load(weight_ptr + row)
    bonus = tl.zeros([BLOCK_N], dtype=tl.float32)
    if bonus_ptr is not None:
        bonus = tl.load(bonus_ptr + row)
    # Cosine with the nearest pick, -inf before the first; of a picked token, and past the end, inf.
    nearest = tl.where(mask, float("-inf"), float("inf"))
    last_phase = num_phases
    if not TOGETHER:
        last_phase = first_phase + 1
        if first_phase > 0:
            nearest = tl.load(nearest_ptr + row, mask=mask, other=float("inf"))

    if first_phase == 0:
        # The weight has no say in the first pick.
        score = bonus
        if bonus_ptr is None:
            score = _distance(_nearest_other(triangle_ptr, row, num_tokens, BLOCK_N, BLOCK_OTHERS))
        post_best(words_ptr + member, row, score, mask)
        if TOGETHER:
            arrive(arrivals_ptr)
    phase = tl.maximum(first_phase, 1)
    while (phase < last_phase) & (phase <= budget):
        if TOGETHER:
            wait(arrivals_ptr, phase * num_owners)
        posts_ptr = words_ptr + ((phase - 1) % 2) * BLOCK_PROGRAMS
        pick = best_row(posts_ptr, num_owners, BLOCK_PROGRAMS)
        high, low = tl.maximum(row, pick), tl.minimum(row, pick)
        entry = tl.load(triangle_ptr + triangle_offset(high, low))
        nearest = tl.where(row == pick, float("inf"), tl.maximum(nearest, entry))
        score = bonus + weight * _distance(nearest)
        post_ptr = words_ptr + (phase % 2) * BLOCK_PROGRAMS + member
        post_best(post_ptr, row, score, nearest < float("inf"))
        if TOGETHER:
            arrive(arrivals_ptr)
        if member == 0:
            tl.store(picks_ptr + phase - 1, first + pick)
        phase += 1

    if not TOGETHER:
        tl.store(nearest_ptr + row, nearest, mask=mask)


@jit
def _nearest_other(
    triangle_ptr, row, num_tokens, BLOCK_N: tl.constexpr, BLOCK_OTHERS: tl.constexpr
):
    """Cosine of each row with the most similar other one; -inf where there is none."""
    nearest = tl.full([BLOCK_N], float("-inf"), dtype=tl.float32)
    for start in range(0, num_tokens, BLOCK_OTHERS):
        other = start + tl.arange(0, BLOCK_OTHERS)[None, :]
        high, low = tl.maximum(row[:, None], other), tl.minimum(row[:, None], other)
        is_other = (other < num_tokens) & (other != row[:, None])
        pointer = triangle_ptr + triangle_offset(high, low)
        cosines = tl.load(pointer, mask=is_other, other=float("-inf"))
        nearest = tl.maximum(nearest, tl.max(cosines, 1))
    return nearest


@jit
def _distance(cosine):
    """1 - cosine; never below 0, where a cosine is rounded to more than 1."""
    return tl.maximum(1.0 - tl.maximum(cosine, -1.0), 0.0)
