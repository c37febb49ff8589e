"""The two Triton kernels of greedy_map.py: the similarities, then all steps of all images.

Some programs share an image, each owns a stretch of its tokens. A step takes one exchange: every
program posts its best token, and reads what all the others posted, so each knows the pick
(_posts.py). To project it out of its own tokens a program needs the pick's part of the factor,
which the owner stored in earlier steps: it is visible, for a post releases what was stored before,
and reading it acquires. A program's own part of the factor stays in registers, as far as it fits.
"""

from __future__ import annotations

from ._cosine import cosine_tile
from ._posts import post, read_posts
from ._triton import jit, tl


@jit(varying=("num_images",), any_place=("inverse_ptr",))
def _similarity_kernel(
    x_ptr,
    x_stride,
    inverse_ptr,
    plan_ptr,
    rows_ptr,
    counts_ptr,
    similarity_ptr,
    num_images,
    dim,
    BLOCK_A: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One tile of the lower triangle of S among the candidates of an image."""
    image = tl.program_id(2)
    first, count, _, budget = _image_plan(image, plan_ptr, counts_ptr, num_images)
    a_start, b_start = tl.program_id(0) * BLOCK_A, tl.program_id(1) * BLOCK_B
    if (b_start >= a_start + BLOCK_A) | (a_start >= count):
        return
    if _takes_all(counts_ptr, count, budget):
        return
    a_tokens, b_tokens = a_start + tl.arange(0, BLOCK_A), b_start + tl.arange(0, BLOCK_B)
    # Places past the end read the last row again, which costs no mask.
    similarity = cosine_tile(
        x_ptr,
        x_stride,
        inverse_ptr,
        _rows(rows_ptr, first, tl.minimum(a_tokens, count - 1)),
        x_ptr,
        x_stride,
        inverse_ptr,
        _rows(rows_ptr, first, tl.minimum(b_tokens, count - 1)),
        dim,
        BLOCK_A,
        BLOCK_B,
        BLOCK_D,
    )
    similarity_ptr += tl.load(plan_ptr + 2 * (num_images + 1) + image)
    places = _triangle_place(a_tokens[:, None], b_tokens[None, :])
    mask = (a_tokens < count)[:, None] & (b_tokens[None, :] <= a_tokens[:, None])
    tl.store(similarity_ptr + places, similarity, mask=mask)


@jit(
    varying=(
        *("frame_size", "num_certain", "num_images", "num_programs", "num_phases"),
        "first_phase",
    ),
    any_place=("relevance_ptr", "inverse_ptr"),
)
def _select_kernel(
    relevance_ptr,
    inverse_ptr,
    plan_ptr,
    rows_ptr,
    counts_ptr,
    floors_ptr,
    frame_size,
    num_certain,
    similarity_ptr,
    factor_ptr,
    factor_stride,
    residual_ptr,
    room_ptr,
    posts_ptr,
    picks_ptr,
    residual_floor,
    num_images,
    num_programs,
    num_phases,
    first_phase,
    TOGETHER: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_CHUNK: tl.constexpr,
    BLOCK_PROGRAMS: tl.constexpr,
    BLOCK_RELEVANCE: tl.constexpr,
):
    """All steps of one image, by num_programs programs. Phase 0 posts; the others pick and post.

    residual, room [tokens]: what outlives a phase that is a launch of its own. room is what the
    frame of a token may still be given of the num_certain first picks; None without floors.
    posts [images, phases, BLOCK_PROGRAMS], all 0.
    """
    image = tl.program_id(0) // num_programs
    program = tl.program_id(0) % num_programs
    first, count, pick_first, budget = _image_plan(image, plan_ptr, counts_ptr, num_images)
    own_tokens = (count + num_programs - 1) // num_programs
    places = tl.arange(0, BLOCK_N)
    tokens = program * own_tokens + places
    mask = (places < own_tokens) & (tokens < count)
    rows = _rows(rows_ptr, first, tl.minimum(tokens, count - 1))
    picks_ptr += pick_first
    if _takes_all(counts_ptr, count, budget):
        tl.store(picks_ptr + tokens, rows, mask=mask)
        return
    similarity_ptr += tl.load(plan_ptr + 2 * (num_images + 1) + image)
    factor_ptr += first * factor_stride
    own_factor_ptr = factor_ptr + tokens.to(tl.int64)[:, None] * factor_stride
    posts_ptr += image.to(tl.int64) * num_phases * BLOCK_PROGRAMS
    residual_ptr += first

    high = _peak_relevance(relevance_ptr, rows_ptr, first, count, BLOCK_RELEVANCE)
    weight = _weight(relevance_ptr, rows, high)
    has_length = tl.load(inverse_ptr + rows) != 0.0
    # Before the first pick a residual is the squared weight, exactly; of a picked token, -inf.
    residual = tl.where(mask, tl.where(has_length, weight * weight, 0.0), float("-inf"))
    room = _room(floors_ptr, frame_size, rows)
    resident = tl.arange(0, BLOCK_K)
    factor = tl.zeros([BLOCK_N, BLOCK_K], dtype=tl.float32)
    floor = 0.0
    last_phase = num_phases
    if not TOGETHER:
        last_phase = first_phase + 1
        if first_phase > 0:
            residual = tl.load(residual_ptr + tokens, mask=mask, other=float("-inf"))
            if floors_ptr is not None:
                room = tl.load(room_ptr + tokens, mask=mask, other=0)
            stored = mask[:, None] & (resident < first_phase - 1)[None, :]
            factor = tl.load(own_factor_ptr + resident[None, :], mask=stored, other=0.0)
            _, _, peak = read_posts(posts_ptr, num_programs, TOGETHER, BLOCK_PROGRAMS)
            floor = residual_floor * peak

    if first_phase == 0:
        post(posts_ptr + program, tokens, residual, weight, room, 0.0)
    phase = tl.maximum(first_phase, 1)
    while (phase < last_phase) & (phase <= budget):
        num_picked = phase - 1
        pick, is_new, peak = read_posts(
            posts_ptr + num_picked * BLOCK_PROGRAMS, num_programs, TOGETHER, BLOCK_PROGRAMS
        )
        pick_row = _rows(rows_ptr, first, pick)
        floor = tl.where(phase == 1, residual_floor * peak, floor)
        tl.store(picks_ptr + num_picked, pick_row, mask=program == 0)

        pick_factor_ptr = factor_ptr + pick.to(tl.int64) * factor_stride
        at_pick = _row_part(pick_factor_ptr, resident, num_picked)
        projected = tl.sum(factor * at_pick[None, :], 1)
        for start in range(BLOCK_K, num_picked, BLOCK_CHUNK):
            k = start + tl.arange(0, BLOCK_CHUNK)
            stored = mask[:, None] & (k < num_picked)[None, :]
            chunk = tl.load(own_factor_ptr + k[None, :], mask=stored, other=0.0)
            chunk *= _row_part(pick_factor_ptr, k, num_picked)[None, :]
            projected += tl.sum(chunk, 1)
        high_token, low_token = tl.maximum(tokens, pick), tl.minimum(tokens, pick)
        pair_ptr = similarity_ptr + _triangle_place(high_token, low_token)
        entry = weight * _weight(relevance_ptr, pick_row, high)
        entry *= tl.load(pair_ptr, mask=mask, other=0.0)
        # A weight is no variance: of picks that the others span nothing is projected out.
        scale = tl.div_rn(1.0, tl.sqrt_rn(tl.where(is_new, peak, 1.0)))
        values = tl.where(is_new, (entry - projected) * scale, 0.0)
        own_places = factor_ptr + tokens.to(tl.int64) * factor_stride + num_picked
        tl.store(own_places, values, mask=mask)
        factor = tl.where((resident == num_picked)[None, :], values[:, None], factor)

        is_picked = (residual == float("-inf")) | (tokens == pick)
        residual = tl.where(is_picked, float("-inf"), residual - values * values)
        if floors_ptr is not None:
            room -= (rows // frame_size == pick_row // frame_size).to(tl.int32)
            room = tl.where(phase >= num_certain, 1, room)  # now all frames compete
        post(posts_ptr + phase * BLOCK_PROGRAMS + program, tokens, residual, weight, room, floor)
        phase += 1

    if not TOGETHER:
        tl.store(residual_ptr + tokens, residual, mask=mask)
        if floors_ptr is not None:
            tl.store(room_ptr + tokens, room, mask=mask)


@jit
def _room(floors_ptr, frame_size, rows):
    """What the frame of each row is sure to be given; 1, which stays, where there are no floors."""
    if floors_ptr is None:
        return tl.full(rows.shape, 1, dtype=tl.int32)
    else:
        return tl.load(floors_ptr + rows // frame_size)


@jit
def _row_part(row_ptr, k, num_picked):
    """Values of a row of the factor that another program may have stored: not from L1."""
    return tl.load(row_ptr + k, mask=k < num_picked, other=0.0, cache_modifier=".cg")


@jit
def _image_plan(image, plan_ptr, counts_ptr, num_images):
    """(first row, candidates, first pick, budget) of an image."""
    first = tl.load(plan_ptr + image)
    if counts_ptr is not None:
        count = tl.load(counts_ptr + image)
    else:
        count = tl.load(plan_ptr + image + 1) - first
    pick_ptr = plan_ptr + num_images + 1 + image
    pick_first = tl.load(pick_ptr)
    budget = tl.load(pick_ptr + 1) - pick_first
    return first, count.to(tl.int32), pick_first, budget.to(tl.int32)


@jit
def _takes_all(counts_ptr, count, budget):
    """Whether all of a pool is picked, which takes no steps."""
    if counts_ptr is None:
        return False
    else:
        return count == budget


@jit
def _rows(rows_ptr, first, tokens):
    """Rows int64 of candidates, which are numbered from 0 in each image."""
    if rows_ptr is None:
        return (first + tokens).to(tl.int64)
    else:
        return tl.load(rows_ptr + first + tokens)


@jit
def _triangle_place(high, low):
    """Place of a pair in the lower triangle of a symmetric matrix, stored row by row."""
    high = high.to(tl.int64)
    return high * (high + 1) // 2 + low


@jit
def _peak_relevance(relevance_ptr, rows_ptr, first, count, BLOCK: tl.constexpr):
    """Largest relevance of the candidates; 0 where it is constant."""
    lows = tl.full([BLOCK], float("inf"), dtype=tl.float32)
    highs = tl.full([BLOCK], float("-inf"), dtype=tl.float32)
    for start in range(0, count, BLOCK):
        # Past the end stands the last candidate once more.
        tokens = tl.minimum(start + tl.arange(0, BLOCK), count - 1)
        relevance = tl.load(relevance_ptr + _rows(rows_ptr, first, tokens))
        lows, highs = tl.minimum(lows, relevance), tl.maximum(highs, relevance)
    high = tl.max(highs, 0)
    return tl.where(tl.min(lows, 0) == high, 0.0, high)


@jit
def _weight(relevance_ptr, rows, high):
    """Relevance on a scale with maximum 1, so that its square stays in float32; constant: 1."""
    relevance = tl.load(relevance_ptr + rows)
    scaled = tl.div_rn(relevance, tl.where(high > 0.0, high, 1.0) + tl.zeros_like(relevance))
    return tl.where(high > 0.0, scaled, 1.0)
