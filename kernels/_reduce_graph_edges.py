"""The graph of a round of reduce_graph.py, on the device: its threshold, and its edges by tiles.

Of the tokens that are left of an image, every second one is src, the others are dst; parity says
which. rows, counts: the tokens that are left; plan: begins with the first row of each image.
"""

from __future__ import annotations

from ._cosine import cosine_tile
from ._triton import jit, tl
from .norms import finite
from .redundancy import store_edges


@jit
def mean_part(
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
def round_threshold(
    image,
    tau,
    tau_relative,
    mean_parts_ptr,
    num_parts,
    DUPLICATE_SIMILARITY: tl.constexpr,
    BLOCK_PARTS: tl.constexpr,
):
    """Similarity at which an edge begins in this round of an image, as `edge_threshold` has it."""
    parts = tl.arange(0, BLOCK_PARTS)
    mask = parts < num_parts * tau_relative  # tau_relative is 0 or 1
    mean = tl.sum(tl.load(mean_parts_ptr + image * num_parts + parts, mask=mask, other=0.0), 0)
    return tl.minimum(tau + mean, DUPLICATE_SIMILARITY)


@jit
def edges_of_tile(
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
