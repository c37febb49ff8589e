"""The end of a round of reduce_graph.py, on the device: the most redundant src tokens go."""

from __future__ import annotations

from ._triton import jit, tl
from .redundancy import load_redundancy


@jit
def drop(
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
    dropped = largest(redundancy, num_dropped)

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
def largest(values, num_wanted):
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
