"""The graph of a round, on the device: its threshold, and its edges by tiles.

Of the tokens that are left of an image, every second one is src, the others are dst; parity says
which. A tile is BLOCK_TILE of one with as many of the other.
"""

from __future__ import annotations

from .._triton import jit, tl
from ..similarity.kernel import triangle_offset


@jit
def sum_tile(
    tile,
    src_blocks,
    count,
    parity,
    triangle_ptr,
    rows_ptr,
    first_row,
    sums_ptr,
    BLOCK_TILE: tl.constexpr,
):
    """Sum of the similarities of one tile, for the mean."""
    similarity, src_mask, dst_mask, _, _ = _load_tile(
        tile, src_blocks, count, parity, triangle_ptr, rows_ptr, first_row, BLOCK_TILE
    )
    similarity = tl.where(src_mask[:, None] & dst_mask[None, :], similarity, 0.0)
    tl.store(sums_ptr + tile, tl.sum(tl.sum(similarity, 1), 0))


@jit
def threshold_of_round(
    num_tiles,
    num_src,
    num_dst,
    tau,
    tau_relative,
    sums_ptr,
    DUPLICATE_SIMILARITY: tl.constexpr,
    BLOCK_SUMS: tl.constexpr,
):
    """Similarity at which an edge begins, from the sums of all tiles: that of `edge_threshold`."""
    total = tl.zeros([BLOCK_SUMS], dtype=tl.float32)
    for start in range(0, num_tiles * tau_relative, BLOCK_SUMS):  # tau_relative is 0 or 1
        tiles = start + tl.arange(0, BLOCK_SUMS)
        total += tl.load(sums_ptr + tiles, mask=tiles < num_tiles, other=0.0)
    mean = tl.sum(total, 0) / (num_src.to(tl.float32) * num_dst.to(tl.float32))
    return tl.minimum(tau + mean, DUPLICATE_SIMILARITY)


@jit
def count_edges(
    tile,
    src_blocks,
    count,
    parity,
    threshold,
    triangle_ptr,
    rows_ptr,
    first_row,
    degree_ptr,
    strength_ptr,
    block_stride,
    BLOCK_TILE: tl.constexpr,
):
    """Edges of the src tokens of one tile with its dst tokens, and the sum over them.

    They are stored at the token's number among src, for every block of dst block_stride further.
    """
    similarity, src_mask, dst_mask, src, dst_block = _load_tile(
        tile, src_blocks, count, parity, triangle_ptr, rows_ptr, first_row, BLOCK_TILE
    )
    edge = (similarity >= threshold) & dst_mask[None, :]
    offset = dst_block.to(tl.int64) * block_stride + src
    tl.store(degree_ptr + offset, tl.sum(edge.to(tl.int32), 1), mask=src_mask)
    tl.store(strength_ptr + offset, tl.sum(tl.where(edge, similarity, 0.0), 1), mask=src_mask)


@jit
def _load_tile(
    tile,
    src_blocks,
    count,
    parity,
    triangle_ptr,
    rows_ptr,
    first_row,
    BLOCK_TILE: tl.constexpr,
):
    """(similarity [src, dst], src that there are, dst that there are, src, block of dst)."""
    num_src = (count - parity + 1) // 2
    num_dst = count - num_src
    dst_block = tile // src_blocks
    src = (tile % src_blocks) * BLOCK_TILE + tl.arange(0, BLOCK_TILE)
    dst = dst_block * BLOCK_TILE + tl.arange(0, BLOCK_TILE)
    src_mask, dst_mask = src < num_src, dst < num_dst
    # Past the end the last one is read again.
    src_position = 2 * tl.minimum(src, num_src - 1) + parity
    dst_position = 2 * tl.minimum(dst, num_dst - 1) + 1 - parity
    src_row = tl.load(rows_ptr + src_position)
    dst_row = tl.load(rows_ptr + dst_position)
    src_row, dst_row = (src_row - first_row).to(tl.int32), (dst_row - first_row).to(tl.int32)
    high = tl.maximum(src_row[:, None], dst_row[None, :])
    low = tl.minimum(src_row[:, None], dst_row[None, :])
    similarity = tl.load(triangle_ptr + triangle_offset(high, low))
    return similarity, src_mask, dst_mask, src, dst_block
