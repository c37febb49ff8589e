"""The Triton kernel of greedy MAP: all steps of all images in one launch.

Programs share an image, each owns a stretch of its tokens. A step takes one exchange: every program
posts its best token and reads what all the others posted, so each knows the pick (posts.py). To
project it out of its own tokens a program needs the pick's row of the factor. Its newest value came
with the post; the others were stored before the owner's last post, which released them. So nobody
waits for a column to be stored. A program's own part of the factor stays in registers, as far as it
fits.

Which images run beside each other is found on the device, from their counts: as many as there are
programs for, in their order. What is computed of an image does not depend on the others.
"""

from __future__ import annotations

from .._launch import arrive, member_of, wait
from .._triton import jit, tl
from ..similarity.kernel import triangle_offset
from .posts import post_argmax, read_posts, row_of, value_of


@jit(varying=("frame_size", "num_certain", "num_images", "num_phases", "first_phase"))
def _select_kernel(
    similarity_ptr,
    relevance_ptr,
    plan_ptr,
    rows_ptr,
    counts_ptr,
    floors_ptr,
    frame_size,
    num_certain,
    factor_ptr,
    stride_fn,
    weight_ptr,
    residual_ptr,
    room_ptr,
    words_ptr,
    newest_ptr,
    arrivals_ptr,
    picks_ptr,
    residual_floor,
    num_images,
    num_phases,
    first_phase,
    TOGETHER: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_CHUNK: tl.constexpr,
    BLOCK_PROGRAMS: tl.constexpr,
    BLOCK_RELEVANCE: tl.constexpr,
):
    """All steps of some images. Phase 0 posts; each of the others picks a token and posts.

    plan int64 [6, images]: number of the image in counts, first row, length, first pick, budget,
        start of the triangle
    rows int64 [rows], counts int64 [images]: the pool, or None: all rows
    floors int32 [frames] or None; num_certain: their sum, the first picks, which are of frames that
        have room
    factor float32 [rows, stride_fn]: written by the owner of a row, read by all of the image
    weight, residual, room [rows]: what outlives a phase that is a launch of its own; weight is read
        by all programs of the image
    words int64, newest float32 [images, 2, BLOCK_PROGRAMS]: the posts, in turns
    arrivals int32 [images], all 0
    picks int64 [sum of budgets]: written by the first program of each image
    grid: any number of programs that has one for every BLOCK_N tokens of each image
    """
    slot = 0
    for image in range(0, num_images):
        first = tl.load(plan_ptr + num_images + image)
        count = tl.load(plan_ptr + 2 * num_images + image).to(tl.int32)
        if counts_ptr is not None:
            count = tl.load(counts_ptr + tl.load(plan_ptr + image)).to(tl.int32)
        num_owners = (count + BLOCK_N - 1) // BLOCK_N
        member, slot = member_of(slot, num_owners)
        if (member >= 0) & (member < num_owners):
            budget = tl.load(plan_ptr + 4 * num_images + image).to(tl.int32)
            own_picks_ptr = picks_ptr + tl.load(plan_ptr + 3 * num_images + image)
            own_rows_ptr = rows_ptr
            if rows_ptr is not None:
                own_rows_ptr = rows_ptr + first
            own_room_ptr = room_ptr
            if room_ptr is not None:
                own_room_ptr = room_ptr + first
            if _takes_all(counts_ptr, count, budget):
                token = member * BLOCK_N + tl.arange(0, BLOCK_N)
                row = _rows(own_rows_ptr, first, tl.minimum(token, count - 1))
                tl.store(own_picks_ptr + token, first + row, mask=token < count)
            else:
                post_offset = image * 2 * BLOCK_PROGRAMS
                _select_image(
                    member,
                    num_owners,
                    count,
                    budget,
                    first,
                    similarity_ptr + tl.load(plan_ptr + 5 * num_images + image),
                    relevance_ptr + first,
                    own_rows_ptr,
                    floors_ptr,
                    frame_size,
                    num_certain,
                    factor_ptr + first * stride_fn,
                    stride_fn,
                    weight_ptr + first,
                    residual_ptr + first,
                    own_room_ptr,
                    words_ptr + post_offset,
                    newest_ptr + post_offset,
                    arrivals_ptr + image,
                    own_picks_ptr,
                    residual_floor,
                    num_phases,
                    first_phase,
                    TOGETHER,
                    BLOCK_N,
                    BLOCK_K,
                    BLOCK_CHUNK,
                    BLOCK_PROGRAMS,
                    BLOCK_RELEVANCE,
                )


@jit
def _select_image(
    member,
    num_owners,
    count,
    budget,
    first,
    triangle_ptr,
    relevance_ptr,
    rows_ptr,
    floors_ptr,
    frame_size,
    num_certain,
    factor_ptr,
    stride_fn,
    weight_ptr,
    residual_ptr,
    room_ptr,
    words_ptr,
    newest_ptr,
    arrivals_ptr,
    picks_ptr,
    residual_floor,
    num_phases,
    first_phase,
    TOGETHER: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_CHUNK: tl.constexpr,
    BLOCK_PROGRAMS: tl.constexpr,
    BLOCK_RELEVANCE: tl.constexpr,
):
    """The steps of one image, of whose `count` candidates this program owns up to BLOCK_N.

    All pointers are to what is of the image: rows are numbered from its first one, int32.
    """
    token = member * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = token < count
    row = _rows(rows_ptr, first, tl.minimum(token, count - 1))
    own_factor_ptr = factor_ptr + row.to(tl.int64) * stride_fn
    weight = _weight(relevance_ptr, rows_ptr, first, count, row, BLOCK_RELEVANCE)
    has_length = tl.load(triangle_ptr + triangle_offset(row, row)) > 0.0
    # Before the first pick a residual is the squared weight, exactly; of a picked token, -inf.
    residual = tl.where(mask, tl.where(has_length, weight * weight, 0.0), float("-inf"))
    room = _room(floors_ptr, frame_size, num_certain, row)
    resident = tl.arange(0, BLOCK_K)
    factor = tl.zeros([BLOCK_N, BLOCK_K], dtype=tl.float32)
    last_phase = num_phases
    if not TOGETHER:
        last_phase = first_phase + 1
        if first_phase > 0:
            residual = tl.load(residual_ptr + row, mask=mask, other=float("-inf"))
            if floors_ptr is not None:
                room = tl.load(room_ptr + row)
            stored = mask[:, None] & (resident < first_phase - 1)[None, :]
            factor = tl.load(own_factor_ptr[:, None] + resident[None, :], mask=stored, other=0.0)

    if first_phase == 0:
        tl.store(weight_ptr + row, weight, mask=mask)
        values = tl.zeros([BLOCK_N], dtype=tl.float32)
        post_argmax(
            words_ptr + member,
            newest_ptr + member,
            row,
            residual,
            weight,
            room,
            residual_floor,
            values,
        )
        if TOGETHER:
            arrive(arrivals_ptr)
    phase = tl.maximum(first_phase, 1)
    while (phase < last_phase) & (phase <= budget):
        num_picked = phase - 1
        if TOGETHER:
            wait(arrivals_ptr, phase * num_owners)
        posted = (num_picked % 2) * BLOCK_PROGRAMS
        words, newests = read_posts(
            words_ptr + posted, newest_ptr + posted, num_owners, BLOCK_PROGRAMS
        )
        best = tl.max(words, 0)
        pick = row_of(best)
        # These come from far, so all of them are asked for first.
        high, low = tl.maximum(row, pick), tl.minimum(row, pick)
        entry = tl.load(triangle_ptr + triangle_offset(high, low))
        pick_weight = tl.load(weight_ptr + pick, cache_modifier=".cg")
        pick_factor_ptr = factor_ptr + pick.to(tl.int64) * stride_fn
        stored = _stored_values(pick_factor_ptr, resident, num_picked)
        newest = tl.sum(tl.where(words == best, newests, 0.0), 0)
        # A weight is no variance: of picks that the others span nothing is projected out.
        peak = tl.where(best > 0, value_of(best), 1.0)
        scale = tl.where(best > 0, tl.div_rn(1.0, tl.sqrt_rn(peak)), 0.0)
        entry *= weight * pick_weight
        at_pick = tl.where(resident == num_picked - 1, newest, stored)
        projected = tl.sum(factor * at_pick[None, :], 1)
        for start in tl.range(BLOCK_K, num_picked, BLOCK_CHUNK, num_stages=2):
            k = start + tl.arange(0, BLOCK_CHUNK)
            # Without a mask, so that whole vectors are loaded: the row goes on behind its values.
            chunk = tl.load(own_factor_ptr[:, None] + k[None, :])
            chunk = tl.where((k < num_picked)[None, :], chunk, 0.0)
            at_k = _stored_values(pick_factor_ptr, k, num_picked)
            at_k = tl.where(k == num_picked - 1, newest, at_k)
            projected += tl.sum(chunk * at_k[None, :], 1)
        values = (entry - projected) * scale

        is_picked = (residual == float("-inf")) | (row == pick)
        residual = tl.where(is_picked, float("-inf"), residual - values * values)
        if floors_ptr is not None:
            room -= (row // frame_size == pick // frame_size).to(tl.int32)
            room = tl.where(phase >= num_certain, 1, room)  # now all frames compete
        post_ptr = (phase % 2) * BLOCK_PROGRAMS + member
        post_argmax(
            words_ptr + post_ptr,
            newest_ptr + post_ptr,
            row,
            residual,
            weight,
            room,
            residual_floor,
            values,
        )
        if TOGETHER:
            arrive(arrivals_ptr)
        # The others read this column when the post after this one has released it.
        tl.store(own_factor_ptr + num_picked, values, mask=mask)
        if member == 0:
            tl.store(picks_ptr + num_picked, first + pick)
        factor = tl.where((resident == num_picked)[None, :], values[:, None], factor)
        phase += 1

    if not TOGETHER:
        tl.store(residual_ptr + row, residual, mask=mask)
        if floors_ptr is not None:
            tl.store(room_ptr + row, room, mask=mask)


@jit
def _takes_all(counts_ptr, count, budget):
    """Whether all of a pool is picked, which takes no steps."""
    if counts_ptr is None:
        return False
    else:
        return count == budget


@jit
def _stored_values(factor_ptr, k, num_picked):
    """Values k of a pick's row of the factor, without the newest, which is not yet in memory."""
    # Other programs stored them, and released them with the post before their last.
    return tl.load(factor_ptr + k, mask=k < num_picked - 1, other=0.0, cache_modifier=".cg")


@jit
def _rows(rows_ptr, first, token):
    """Rows of candidates, both numbered from 0 in each image; int32."""
    if rows_ptr is None:
        return token
    else:
        return (tl.load(rows_ptr + token) - first).to(tl.int32)


@jit
def _room(floors_ptr, frame_size, num_certain, row):
    """What the frame of each row is sure to be given; 1, which stays, where nothing is certain."""
    if floors_ptr is None:
        return tl.full(row.shape, 1, dtype=tl.int32)
    else:
        return tl.where(num_certain == 0, 1, tl.load(floors_ptr + row // frame_size))


@jit
def _weight(relevance_ptr, rows_ptr, first, count, row, BLOCK: tl.constexpr):
    """Relevance on a scale with maximum 1, so that its square stays in float32; constant: 1."""
    lows = tl.full([BLOCK], float("inf"), dtype=tl.float32)
    highs = tl.full([BLOCK], float("-inf"), dtype=tl.float32)
    for start in range(0, count, BLOCK):
        # Past the end stands the last candidate once more.
        token = tl.minimum(start + tl.arange(0, BLOCK), count - 1)
        relevance = tl.load(relevance_ptr + _rows(rows_ptr, first, token))
        lows, highs = tl.minimum(lows, relevance), tl.maximum(highs, relevance)
    high = tl.max(highs, 0)
    is_constant = tl.min(lows, 0) == high
    relevance = tl.load(relevance_ptr + row)
    scaled = tl.div_rn(relevance, tl.where(is_constant, 1.0, high) + tl.zeros_like(relevance))
    return tl.where(is_constant, 1.0, scaled)
