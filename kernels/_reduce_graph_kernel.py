"""The Triton kernel of reduce_graph.py: all rounds of all images in one launch.

Phase 0 starts; then each round has three: the mean similarity, the tiles of the graph, the drop.
The work of a phase is shared out anew every time, for what is left of each image is known on the
device only.
"""

from __future__ import annotations

from ._cosine import cosine_tile
from ._phases import meet
from ._triton import jit, tl
from ._varlen import locate
from .norms import finite
from .redundancy import load_redundancy, store_edges


@jit
def _reduce_kernel(
    x_ptr,
    x_stride,
    inverse_ptr,
    plan_ptr,
    rows_ptr,
    counts_ptr,
    open_ptr,
    mean_parts_ptr,
    degree_ptr,
    strength_ptr,
    arrivals_ptr,
    tau,
    gamma,
    num_images,
    num_rows,
    dim,
    num_rounds,
    first_phase,
    TOGETHER: tl.constexpr,
    TAU_RELATIVE: tl.constexpr,
    MAX_DROP: tl.constexpr,
    DUPLICATE_SIMILARITY: tl.constexpr,
    BLOCK_IMAGES: tl.constexpr,
    BLOCK_FEATURES: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_PARTS: tl.constexpr,
    BLOCK_PAIRS: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """plan: offsets [images + 1], then targets [images]. rows, counts: the pool.

    open [images]: whether the image is above its target and its last round dropped something.
    """
    program, num_programs = tl.program_id(0), tl.num_programs(0)
    targets_ptr = plan_ptr + num_images + 1
    num_parts = (dim + BLOCK_FEATURES - 1) // BLOCK_FEATURES
    images = tl.arange(0, BLOCK_IMAGES)
    image_mask = images < num_images

    phase, any_open = first_phase, 1
    last_phase = first_phase + 1
    if TOGETHER:
        last_phase = 1 + 3 * num_rounds
    while (phase < last_phase) & (any_open > 0):
        if phase == 0:
            for image in range(program, num_images, num_programs):
                _start(image, plan_ptr, targets_ptr, rows_ptr, counts_ptr, open_ptr, BLOCK_PAIRS)
        else:
            parity = ((phase - 1) // 3) % 2
            step = (phase - 1) % 3
            is_open = tl.load(open_ptr + images, mask=image_mask, other=0) > 0
            counts = tl.load(counts_ptr + images, mask=image_mask, other=0).to(tl.int32)
            num_src = (counts - parity + 1) // 2
            if step == 0:
                if TAU_RELATIVE:
                    num_items = tl.where(is_open, num_parts, 0)
                    for item in range(program, tl.sum(num_items, 0), num_programs):
                        image, part = locate(item, num_items)
                        _mean_part(
                            image,
                            part,
                            parity,
                            x_ptr,
                            x_stride,
                            inverse_ptr,
                            plan_ptr,
                            rows_ptr,
                            counts_ptr,
                            mean_parts_ptr,
                            num_parts,
                            dim,
                            BLOCK_FEATURES,
                            BLOCK_TOKENS,
                        )
            elif step == 1:
                src_blocks = (num_src + BLOCK_A - 1) // BLOCK_A
                dst_blocks = (counts - num_src + BLOCK_B - 1) // BLOCK_B
                num_items = tl.where(is_open, src_blocks * dst_blocks, 0)
                for item in range(program, tl.sum(num_items, 0), num_programs):
                    image, tile = locate(item, num_items)
                    threshold = _threshold(
                        image,
                        tau,
                        mean_parts_ptr,
                        num_parts,
                        TAU_RELATIVE,
                        DUPLICATE_SIMILARITY,
                        BLOCK_PARTS,
                    )
                    _edges_of_tile(
                        image,
                        tile,
                        parity,
                        threshold,
                        x_ptr,
                        x_stride,
                        inverse_ptr,
                        plan_ptr,
                        rows_ptr,
                        counts_ptr,
                        degree_ptr,
                        strength_ptr,
                        num_rows,
                        dim,
                        BLOCK_A,
                        BLOCK_B,
                        BLOCK_D,
                    )
            else:
                # Whose turn it is must not depend on what others close in this phase.
                for image in range(program, num_images, num_programs):
                    if tl.load(open_ptr + image) > 0:
                        threshold = _threshold(
                            image,
                            tau,
                            mean_parts_ptr,
                            num_parts,
                            TAU_RELATIVE,
                            DUPLICATE_SIMILARITY,
                            BLOCK_PARTS,
                        )
                        _drop(
                            image,
                            parity,
                            threshold,
                            gamma,
                            plan_ptr,
                            targets_ptr,
                            rows_ptr,
                            counts_ptr,
                            open_ptr,
                            degree_ptr,
                            strength_ptr,
                            num_rows,
                            MAX_DROP,
                            BLOCK_B,
                            BLOCK_PAIRS,
                        )
        phase += 1
        if TOGETHER:
            meet(arrivals_ptr, phase * num_programs)
            # Only before the first phase of a round: others may be in the next one, and the last
            # phase of a round closes images.
            if (phase - 1) % 3 == 0:
                any_open = tl.sum(tl.load(open_ptr + images, mask=image_mask, other=0), 0)


@jit
def _start(image, plan_ptr, targets_ptr, rows_ptr, counts_ptr, open_ptr, BLOCK_PAIRS: tl.constexpr):
    """All rows of the image survive so far."""
    first, end = tl.load(plan_ptr + image), tl.load(plan_ptr + image + 1)
    for start in range(first, end, BLOCK_PAIRS):
        rows = start + tl.arange(0, BLOCK_PAIRS)
        tl.store(rows_ptr + rows, rows.to(tl.int64), mask=rows < end)
    tl.store(counts_ptr + image, end - first)
    tl.store(open_ptr + image, (end - first > tl.load(targets_ptr + image)).to(tl.int32))


@jit
def _mean_part(
    image,
    part,
    parity,
    x_ptr,
    x_stride,
    inverse_ptr,
    plan_ptr,
    rows_ptr,
    counts_ptr,
    mean_parts_ptr,
    num_parts,
    dim,
    BLOCK_FEATURES: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
):
    """What some features contribute to mean(src) . mean(dst), the mean similarity."""
    count = tl.load(counts_ptr + image).to(tl.int32)
    rows_ptr += tl.load(plan_ptr + image)
    num_src = (count - parity + 1) // 2
    features = part * BLOCK_FEATURES + tl.arange(0, BLOCK_FEATURES)
    src_sum = tl.zeros([BLOCK_FEATURES], dtype=tl.float32)
    dst_sum = tl.zeros([BLOCK_FEATURES], dtype=tl.float32)
    for start in range(0, count, BLOCK_TOKENS):
        positions = start + tl.arange(0, BLOCK_TOKENS)
        mask = positions < count
        rows = tl.load(rows_ptr + positions, mask=mask, other=0)
        scale = tl.abs(tl.load(inverse_ptr + rows, mask=mask, other=0.0))
        places = x_ptr + rows[:, None] * x_stride + features[None, :]
        value_mask = mask[:, None] & (features < dim)[None, :]
        values = finite(tl.load(places, mask=value_mask, other=0.0)).to(tl.float32)
        values *= scale[:, None]
        is_src = (positions % 2 == parity)[:, None]
        src_sum += tl.sum(tl.where(is_src, values, 0.0), 0)
        dst_sum += tl.sum(tl.where(is_src, 0.0, values), 0)
    num_pairs = num_src.to(tl.float32) * (count - num_src).to(tl.float32)
    mean_part = tl.sum(src_sum * dst_sum, 0) / num_pairs
    tl.store(mean_parts_ptr + image * num_parts + part, mean_part)


@jit
def _threshold(
    image,
    tau,
    mean_parts_ptr,
    num_parts,
    TAU_RELATIVE: tl.constexpr,
    DUPLICATE_SIMILARITY: tl.constexpr,
    BLOCK_PARTS: tl.constexpr,
):
    """As `edge_threshold`."""
    if TAU_RELATIVE:
        parts = tl.arange(0, BLOCK_PARTS)
        places = mean_parts_ptr + image * num_parts + parts
        tau += tl.sum(tl.load(places, mask=parts < num_parts, other=0.0), 0)
    return tl.minimum(tau, DUPLICATE_SIMILARITY)


@jit
def _edges_of_tile(
    image,
    tile,
    parity,
    threshold,
    x_ptr,
    x_stride,
    inverse_ptr,
    plan_ptr,
    rows_ptr,
    counts_ptr,
    degree_ptr,
    strength_ptr,
    num_rows,
    dim,
    BLOCK_A: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Edges between BLOCK_A src and BLOCK_B dst tokens of the image."""
    count = tl.load(counts_ptr + image).to(tl.int32)
    first = tl.load(plan_ptr + image)
    rows_ptr += first
    num_src = (count - parity + 1) // 2
    num_dst = count - num_src
    src_blocks = (num_src + BLOCK_A - 1) // BLOCK_A
    src_tokens = (tile % src_blocks) * BLOCK_A + tl.arange(0, BLOCK_A)
    dst_tokens = (tile // src_blocks) * BLOCK_B + tl.arange(0, BLOCK_B)
    # Places past the end read the last row again, which costs no mask.
    src_rows = tl.load(rows_ptr + 2 * tl.minimum(src_tokens, num_src - 1) + parity)
    dst_rows = tl.load(rows_ptr + 2 * tl.minimum(dst_tokens, num_dst - 1) + 1 - parity)
    similarity = cosine_tile(
        x_ptr,
        x_stride,
        inverse_ptr,
        src_rows,
        x_ptr,
        x_stride,
        inverse_ptr,
        dst_rows,
        dim,
        BLOCK_A,
        BLOCK_B,
        BLOCK_D,
    )
    places = (tile // src_blocks).to(tl.int64) * num_rows + first + src_tokens
    dst_mask, src_mask = dst_tokens < num_dst, src_tokens < num_src
    store_edges(similarity, threshold, dst_mask, degree_ptr, strength_ptr, places, src_mask)


@jit
def _drop(
    image,
    parity,
    threshold,
    gamma,
    plan_ptr,
    targets_ptr,
    rows_ptr,
    counts_ptr,
    open_ptr,
    degree_ptr,
    strength_ptr,
    num_rows,
    MAX_DROP: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_PAIRS: tl.constexpr,
):
    """Drop the most redundant src tokens of an image, lowest index on ties, and close the gaps."""
    count = tl.load(counts_ptr + image).to(tl.int32)
    target = tl.load(targets_ptr + image).to(tl.int32)
    first = tl.load(plan_ptr + image)
    num_src = (count - parity + 1) // 2
    num_dst = count - num_src
    pairs = tl.arange(0, BLOCK_PAIRS)
    is_src, is_dst = pairs < num_src, pairs < num_dst
    redundancy = load_redundancy(
        degree_ptr + first + pairs,
        strength_ptr + first + pairs,
        num_rows,
        (num_dst + BLOCK_B - 1) // BLOCK_B,
        is_src,
        threshold,
        gamma,
    )
    num_redundant = tl.sum((redundancy > 0.0).to(tl.int32), 0)
    most = tl.ceil(MAX_DROP * num_src.to(tl.float32)).to(tl.int32)
    num_dropped = tl.minimum(tl.minimum(num_redundant, most), count - target)
    dropped = _largest(redundancy, num_dropped)

    # A src token moves down by the dropped ones before it; a dst token, which stands before (src
    # odd) or behind (src even) the src token of its pair, by the dropped ones before itself.
    num_before = tl.cumsum(dropped.to(tl.int32), 0) - dropped.to(tl.int32)
    rows_ptr += first
    src_places, dst_places = 2 * pairs + parity, 2 * pairs + 1 - parity
    src_rows = tl.load(rows_ptr + src_places, mask=is_src, other=0)
    dst_rows = tl.load(rows_ptr + dst_places, mask=is_dst, other=0)
    tl.debug_barrier()  # all is read before the first is overwritten
    tl.store(rows_ptr + src_places - num_before, src_rows, mask=is_src & (dropped == 0))
    num_before += tl.where(parity == 0, dropped.to(tl.int32), 0)
    tl.store(rows_ptr + dst_places - num_before, dst_rows, mask=is_dst)
    remaining = count - num_dropped
    tl.store(counts_ptr + image, remaining.to(tl.int64))
    # An idle round found no edge, and swapped roles would look at the same edges again.
    tl.store(open_ptr + image, ((remaining > target) & (num_dropped > 0)).to(tl.int32))


@jit
def _largest(values, num_wanted):
    """Whether each of the values (>= 0) is one of the num_wanted largest; the first on ties.

    The bits of a float >= 0 are in its order, so the smallest wanted value is found bit by bit.
    """
    bits = values.to(tl.int32, bitcast=True)
    smallest = 0
    for place in range(0, 31):
        candidate = smallest | (1 << (30 - place))
        enough = tl.sum((bits >= candidate).to(tl.int32), 0) >= num_wanted
        smallest = tl.where(enough, candidate, smallest)
    is_tie = (bits == smallest).to(tl.int32)
    num_above = tl.sum((bits > smallest).to(tl.int32), 0)
    is_early = tl.cumsum(is_tie, 0) <= num_wanted - num_above
    return (bits > smallest) | ((is_tie > 0) & is_early)
