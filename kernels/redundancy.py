"""Redundancy of each source token in a bipartite cosine graph; high = safe to drop.

    edges[i]      = {j : cosine(src_i, dst_j) >= tau}
    redundancy[i] = |edges[i]| * exp(gamma * (mean cosine over edges[i] - tau))

Source: Script (arXiv 2512.01949), graph-structured pruning. Differs from the published code
(01yzzyu/script.github.io@7e5e2f3 Script/llava/model/llava_arch.py:249-263): that one scores
a full graph with self edges and keeps the highest scores.

The cosines are never stored. A program computes one tile of them and leaves, for each of its src
tokens, the edges it saw and the sum over them; the next program adds up the tiles in their order.
Nothing is added atomically. reduce_graph.py makes rounds of the same two steps.
"""

from __future__ import annotations

import torch

from ._cosine import cosine_tile, tile_constants
from ._triton import Backend, check_features, jit, tl, triton, use_triton
from .norms import inverse_norms, unit_rows

# Rows of src the reference scores at once. Fewer slow the product down, more take memory: these
# and 1440 of dst have 4 MB of similarities.
BLOCK_ROWS = 720

# Tokens whose tiles one program adds up.
BLOCK_SUM = 256


def bipartite_redundancy(
    src: torch.Tensor,
    dst: torch.Tensor,
    tau: float,
    gamma: float,
    backend: Backend = "auto",
) -> torch.Tensor:
    """Return the redundancy of every src token, given the dst tokens that could stand for it.

    Args:
        src: [S, D] float32/float16/bfloat16, last dim contiguous, rows of any length and stride.
            A feature that is NaN or infinite counts as 0.
        dst: [T, D] likewise, of src's dtype.
        tau: smallest cosine similarity that makes an edge.
        gamma: weight of how close the neighbours are against how many they are, >= 0.
        backend: "auto" is Triton on CUDA, else torch. The other two never fall back.

    Returns:
        redundancy [S] float32; 0 exactly where a token has no edge.

    Raises:
        ValueError: shapes, strides or dtypes do not fit, or the backend cannot run on src.
        ImportError: backend is "triton" and Triton is not installed.
    """
    check_features("src", src)
    check_features("dst", dst)
    if src.shape[1] != dst.shape[1] or src.dtype != dst.dtype:
        raise ValueError(
            f"src and dst must agree in row length and dtype, got {tuple(src.shape)} {src.dtype} "
            f"and {tuple(dst.shape)} {dst.dtype}"
        )
    if use_triton(backend, src):
        return _redundancy_triton(src, dst, tau, gamma)
    return bipartite_redundancy_reference(unit_rows(src), unit_rows(dst), tau, gamma)


def bipartite_redundancy_reference(
    src: torch.Tensor, dst: torch.Tensor, tau: float | torch.Tensor, gamma: float
) -> torch.Tensor:
    """`bipartite_redundancy` of unit rows in plain PyTorch, float32 throughout; any device."""
    redundancy = torch.empty(len(src), dtype=torch.float32, device=src.device)
    block = src.new_empty(min(BLOCK_ROWS, len(src)), len(dst))
    for start in range(0, len(src), BLOCK_ROWS):
        rows = src[start : start + BLOCK_ROWS]
        similarity = torch.mm(rows, dst.T, out=block[: len(rows)])  # [rows, T]
        no_edge = similarity < tau
        degree = len(dst) - no_edge.sum(1, dtype=torch.int32)
        strength = similarity.masked_fill_(no_edge, 0.0).sum(1)
        mean_similarity = strength / degree.clamp(min=1)
        redundancy[start : start + BLOCK_ROWS] = degree * torch.exp(gamma * (mean_similarity - tau))
    return redundancy


def _redundancy_triton(
    src: torch.Tensor, dst: torch.Tensor, tau: float, gamma: float
) -> torch.Tensor:
    redundancy = torch.zeros(len(src), dtype=torch.float32, device=src.device)
    if len(src) == 0 or len(dst) == 0:
        return redundancy
    tile = tile_constants(src)
    num_tiles = triton.cdiv(len(dst), tile["BLOCK_B"])
    degree = torch.empty(num_tiles, len(src), dtype=torch.int32, device=src.device)
    strength = torch.empty(num_tiles, len(src), dtype=torch.float32, device=src.device)
    _tile_kernel[(triton.cdiv(len(src), tile["BLOCK_A"]), num_tiles)](
        src,
        src.stride(0),
        inverse_norms(src, "triton"),
        dst,
        dst.stride(0),
        inverse_norms(dst, "triton"),
        degree,
        strength,
        float(tau),
        len(src),
        len(dst),
        src.shape[1],
        **tile,
    )
    _redundancy_kernel[(triton.cdiv(len(src), BLOCK_SUM),)](
        degree,
        strength,
        redundancy,
        float(tau),
        float(gamma),
        len(src),
        num_tiles,
        BLOCK_SUM=BLOCK_SUM,
    )
    return redundancy


@jit(varying=("num_src", "num_dst"), any_place=("src_inverse_ptr", "dst_inverse_ptr"))
def _tile_kernel(
    src_ptr,
    src_stride,
    src_inverse_ptr,
    dst_ptr,
    dst_stride,
    dst_inverse_ptr,
    degree_ptr,
    strength_ptr,
    tau,
    num_src,
    num_dst,
    dim,
    BLOCK_A: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    src_tokens = tl.program_id(0).to(tl.int64) * BLOCK_A + tl.arange(0, BLOCK_A)
    dst_tokens = tl.program_id(1).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    # Places past the end read the last row again, which costs no mask.
    similarity = cosine_tile(
        src_ptr,
        src_stride,
        src_inverse_ptr,
        tl.minimum(src_tokens, num_src - 1),
        dst_ptr,
        dst_stride,
        dst_inverse_ptr,
        tl.minimum(dst_tokens, num_dst - 1),
        dim,
        BLOCK_A,
        BLOCK_B,
        BLOCK_D,
    )
    places = tl.program_id(1).to(tl.int64) * num_src + src_tokens
    store_edges(
        similarity,
        tau,
        dst_tokens < num_dst,
        degree_ptr,
        strength_ptr,
        places,
        src_tokens < num_src,
    )


@jit(varying=("num_src", "num_tiles"))
def _redundancy_kernel(
    degree_ptr,
    strength_ptr,
    redundancy_ptr,
    tau,
    gamma,
    num_src,
    num_tiles,
    BLOCK_SUM: tl.constexpr,
):
    tokens = tl.program_id(0) * BLOCK_SUM + tl.arange(0, BLOCK_SUM)
    mask = tokens < num_src
    redundancy = load_redundancy(
        degree_ptr + tokens, strength_ptr + tokens, num_src, num_tiles, mask, tau, gamma
    )
    tl.store(redundancy_ptr + tokens, redundancy, mask=mask)


@jit
def store_edges(similarity, tau, dst_mask, degree_ptr, strength_ptr, places, src_mask):
    """Edges of one tile [src, dst] and the sum over them, for each src token."""
    edge = (similarity >= tau) & dst_mask[None, :]
    tl.store(degree_ptr + places, tl.sum(edge.to(tl.int32), 1), mask=src_mask)
    tl.store(strength_ptr + places, tl.sum(tl.where(edge, similarity, 0.0), 1), mask=src_mask)


@jit
def load_redundancy(degree_ptrs, strength_ptrs, tile_stride, num_tiles, mask, tau, gamma):
    """Redundancy from what `store_edges` left for each tile, one every tile_stride values."""
    degree = tl.zeros(degree_ptrs.shape, dtype=tl.int32)
    strength = tl.zeros(degree_ptrs.shape, dtype=tl.float32)
    for tile in range(0, num_tiles):
        place = tl.cast(tile, tl.int64) * tile_stride
        degree += tl.load(degree_ptrs + place, mask=mask, other=0)
        strength += tl.load(strength_ptrs + place, mask=mask, other=0.0)
    mean_similarity = strength / tl.maximum(degree, 1).to(tl.float32)
    return degree.to(tl.float32) * tl.exp(gamma * (mean_similarity - tau))
