"""Cosines of some rows with some others: the tile that redundancy and greedy MAP are made of.

Nothing is copied or scaled beforehand: rows come straight from where the encoder left them, by
their numbers. The products of 16-bit rows are exact, and sums are float32.
"""

from __future__ import annotations

from typing import Any

import torch

from ._triton import jit, tl
from .norms import finite


def tile_constants(x: torch.Tensor) -> dict[str, Any]:
    """Tile, pipeline depth, warps and registers for rows like those of x. Not yet tuned on a GPU.

    They compile without spills, as long as the compiler does not save registers for a second
    program on the multiprocessor. Float32 rows take three products on the tensor cores.
    """
    if x.dtype == torch.float32:
        block, block_d = 64, 16
    else:
        block, block_d = (128, 64) if loads_vectors(x) else (64, 16)
    return {
        **{"BLOCK_A": block, "BLOCK_B": block, "BLOCK_D": block_d},
        **{"num_warps": 8, "num_stages": 3, "maxnreg": 255},
    }


def loads_vectors(x: torch.Tensor) -> bool:
    """Whether kernels load rows in whole vectors, or with an address for each value."""
    return x.stride(0) % 16 == 0 and x.shape[1] % 16 == 0


@jit
def cosine_tile(
    a_ptr,
    a_stride,
    a_inverse_ptr,
    a_rows,
    b_ptr,
    b_stride,
    b_inverse_ptr,
    b_rows,
    dim,
    BLOCK_A: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Cosines float32 [BLOCK_A, BLOCK_B] of a_rows with b_rows, which are int64 and all valid."""
    a_inverse, b_inverse = tl.load(a_inverse_ptr + a_rows), tl.load(b_inverse_ptr + b_rows)
    a_places, b_places = a_ptr + a_rows * a_stride, b_ptr + b_rows * b_stride
    # To look at every value costs a GEMM its speed, so only tiles with a marked row do.
    if (tl.min(a_inverse, 0) < 0.0) | (tl.min(b_inverse, 0) < 0.0):
        products = _clean_products(a_places, b_places, dim, BLOCK_A, BLOCK_B, 16)
    else:
        products = _products(a_places, b_places, dim, BLOCK_A, BLOCK_B, BLOCK_D)
    cosines = (products * tl.abs(a_inverse)[:, None]) * tl.abs(b_inverse)[None, :]
    # A product with a row of inverse norm 0 may be infinite.
    return tl.where((a_inverse != 0.0)[:, None] & (b_inverse != 0.0)[None, :], cosines, 0.0)


@jit
def _products(
    a_places,
    b_places,
    dim,
    BLOCK_A: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    products = tl.zeros([BLOCK_A, BLOCK_B], dtype=tl.float32)
    for d_start in range(0, dim, BLOCK_D):
        d = d_start + tl.arange(0, BLOCK_D)
        a = tl.load(a_places[:, None] + d[None, :], mask=(d < dim)[None, :], other=0.0)
        b = tl.load(b_places[None, :] + d[:, None], mask=(d < dim)[:, None], other=0.0)
        products = tl.dot(a, b, products, input_precision="tf32x3")
    return products


@jit
def _clean_products(
    a_places,
    b_places,
    dim,
    BLOCK_A: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Products as `_products` adds them up; features that are not finite count as 0.

    Rare, so it is not pipelined and takes few features at once: registers are for the other.
    """
    products = tl.zeros([BLOCK_A, BLOCK_B], dtype=tl.float32)
    for d_start in tl.range(0, dim, BLOCK_D, num_stages=1):
        d = d_start + tl.arange(0, BLOCK_D)
        a = tl.load(a_places[:, None] + d[None, :], mask=(d < dim)[None, :], other=0.0)
        b = tl.load(b_places[None, :] + d[:, None], mask=(d < dim)[:, None], other=0.0)
        products = tl.dot(finite(a), finite(b), products, input_precision="tf32x3")
    return products
