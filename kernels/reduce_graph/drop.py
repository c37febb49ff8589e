"""The end of a round, on the device: the most redundant src tokens go."""

from __future__ import annotations

from .._triton import jit, tl


@jit
def drop(
    count,
    target,
    parity,
    threshold,
    gamma,
    rows_ptr,
    degree_ptr,
    strength_ptr,
    block_stride,
    MAX_DROP: tl.constexpr,
    BLOCK_TILE: tl.constexpr,
    BLOCK_PAIRS: tl.constexpr,
):
    """Drop the most redundant src tokens of an image, lowest index on ties, and close the gaps.

    rows [count]: the tokens that are left, which become fewer. Returns how many remain.
    """
    num_src = (count - parity + 1) // 2
    num_dst = count - num_src
    pair = tl.arange(0, BLOCK_PAIRS)
    is_src, is_dst = pair < num_src, pair < num_dst
    redundancy = _redundancy(
        degree_ptr + pair,
        strength_ptr + pair,
        block_stride,
        (num_dst + BLOCK_TILE - 1) // BLOCK_TILE,
        is_src,
        threshold,
        gamma,
    )
    num_redundant = tl.sum((redundancy > 0.0).to(tl.int32), 0)
    most = tl.ceil(MAX_DROP * num_src.to(tl.float32)).to(tl.int32)
    num_dropped = tl.minimum(tl.minimum(num_redundant, most), count - target)
    is_dropped = largest(redundancy, num_dropped).to(tl.int32)

    # A src token moves down by the dropped ones before it; a dst token, which stands before (src
    # odd) or behind (src even) the src token of its pair, by the dropped ones before itself.
    num_before = tl.cumsum(is_dropped, 0) - is_dropped
    src_position, dst_position = 2 * pair + parity, 2 * pair + 1 - parity
    src_row = tl.load(rows_ptr + src_position, mask=is_src, other=0)
    dst_row = tl.load(rows_ptr + dst_position, mask=is_dst, other=0)
    tl.debug_barrier()  # all is read before the first is overwritten
    tl.store(rows_ptr + src_position - num_before, src_row, mask=is_src & (is_dropped == 0))
    num_before += tl.where(parity == 0, is_dropped, 0)
    tl.store(rows_ptr + dst_position - num_before, dst_row, mask=is_dst)
    return count - num_dropped


@jit
def _redundancy(degree_ptr, strength_ptr, block_stride, num_blocks, mask, threshold, gamma):
    """Redundancy from what `count_edges` left of each block of dst, added in the blocks' order."""
    degree = tl.zeros(degree_ptr.shape, dtype=tl.int32)
    strength = tl.zeros(degree_ptr.shape, dtype=tl.float32)
    for block in range(0, num_blocks):
        offset = tl.cast(block, tl.int64) * block_stride
        degree += tl.load(degree_ptr + offset, mask=mask, other=0)
        strength += tl.load(strength_ptr + offset, mask=mask, other=0.0)
    mean_similarity = strength / tl.maximum(degree, 1).to(tl.float32)
    return degree.to(tl.float32) * tl.exp(gamma * (mean_similarity - threshold))


@jit
def largest(values, num_largest):
    """Whether each of the values (>= 0) is one of the num_largest largest; the first on ties.

    The bits of a float >= 0 are in its order, so the smallest of those is found bit by bit.
    """
    bits = values.to(tl.int32, bitcast=True)
    smallest = 0
    for place in range(0, 31):
        candidate = smallest | (1 << (30 - place))
        enough = tl.sum((bits >= candidate).to(tl.int32), 0) >= num_largest
        smallest = tl.where(enough, candidate, smallest)
    is_tie = (bits == smallest).to(tl.int32)
    num_above = tl.sum((bits > smallest).to(tl.int32), 0)
    is_early = tl.cumsum(is_tie, 0) <= num_largest - num_above
    return (bits > smallest) | ((is_tie > 0) & is_early)
