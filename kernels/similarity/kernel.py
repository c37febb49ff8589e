"""The Triton kernel of the cosine similarity: a tile of the product of the rows with themselves.

Rows are read where the encoder left them, without a copy of unit rows: in 16 bits their products
are exact. The accumulator of a tensor core, though, truncates each sum to the bits below its
largest term. Over thousands of features such errors add up, always toward zero, to 1e-5 of a
cosine on an H100. So a tile sums few features there, and adds those sums up in float32 registers.
Source: Fasi et al. 2021, "Numerical behavior of NVIDIA tensor cores", PeerJ Comput. Sci. 7:e330.
"""

from __future__ import annotations

from .._triton import jit, tl
from ..norms import finite


@jit(varying=("num_images",), any_place=("inverse_ptr",))
def _similarity_kernel(
    x_ptr,
    stride_xn,
    inverse_ptr,
    plan_ptr,
    triangles_ptr,
    num_images,
    dim,
    one,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    ALIGNMENT: tl.constexpr,
):
    """One tile of the lower triangle of the cosines of an image.

    x [N, dim] of the first image, inverse [sum of N]: rows, and 1 / their lengths
    plan int64 [4, images]: the first value of an image, counted from x, a multiple of ALIGNMENT;
        its first row among those of all, its length, the start of its triangle
    triangles float32 [sum of N (N + 1) / 2]: a program writes the cosines of its tile
    grid: (a program for each tile of [BLOCK_M, BLOCK_M] on and below the diagonal, images)
    one: 1.0, which the compiler must not know
    """
    plan_ptr += tl.program_id(1)
    num_tokens = tl.load(plan_ptr + 2 * num_images).to(tl.int32)
    block_m, block_n = tile_of_triangle(tl.program_id(0))
    if block_m * BLOCK_M >= num_tokens:
        return
    x_ptr += tl.multiple_of(tl.load(plan_ptr), ALIGNMENT)
    inverse_ptr += tl.load(plan_ptr + num_images)
    # Rows past the end are the last one again, which costs no mask.
    row = tl.minimum(block_m * BLOCK_M + tl.arange(0, BLOCK_M), num_tokens - 1)
    column = tl.minimum(block_n * BLOCK_M + tl.arange(0, BLOCK_M), num_tokens - 1)
    row_ptr = x_ptr + row.to(tl.int64) * stride_xn
    column_ptr = x_ptr + column.to(tl.int64) * stride_xn
    # To look at every value costs a GEMM its speed, so only tiles with a marked row do.
    is_marked = tl.min(tl.load(inverse_ptr + row), 0) < 0.0
    if is_marked | (tl.min(tl.load(inverse_ptr + column), 0) < 0.0):
        products = _products_of_finite(row_ptr, column_ptr, dim, one, BLOCK_M)
    else:
        products = _products(row_ptr, column_ptr, dim, one, BLOCK_M, BLOCK_K)

    # What follows could be known before the products, and would take their registers. It is not,
    # since it hangs on this load, which the modifier makes another one than that above.
    num_tokens = tl.load(plan_ptr + 2 * num_images, cache_modifier=".ca").to(tl.int32)
    row = block_m * BLOCK_M + tl.arange(0, BLOCK_M)
    column = block_n * BLOCK_M + tl.arange(0, BLOCK_M)
    row_inverse = tl.abs(tl.load(inverse_ptr + tl.minimum(row, num_tokens - 1)))[:, None]
    column_inverse = tl.abs(tl.load(inverse_ptr + tl.minimum(column, num_tokens - 1)))[None, :]
    # In this order, so that equal rows have equal cosines with a third one between them.
    cosine = products * tl.maximum(row_inverse, column_inverse)
    cosine *= tl.minimum(row_inverse, column_inverse)
    cosine = tl.where(row[:, None] == column[None, :], 1.0, cosine)
    # A product with a row of inverse norm 0 may be infinite.
    cosine = tl.where((row_inverse > 0.0) & (column_inverse > 0.0), cosine, 0.0)
    mask = (row < num_tokens)[:, None] & (column[None, :] <= row[:, None])
    triangle_ptr = triangles_ptr + tl.load(plan_ptr + 3 * num_images)
    tl.store(triangle_ptr + triangle_offset(row[:, None], column[None, :]), cosine, mask=mask)


@jit
def _products(row_ptr, column_ptr, dim, one, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr):
    """Products [BLOCK_M, BLOCK_M] float32 of rows with columns."""
    products = tl.zeros([BLOCK_M, BLOCK_M], dtype=tl.float32)
    for start in range(0, dim, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        a = tl.load(row_ptr[:, None] + k[None, :], mask=(k < dim)[None, :], other=0.0)
        b = tl.load(column_ptr[None, :] + k[:, None], mask=(k < dim)[:, None], other=0.0)
        # The compiler would fold `products + tl.dot(a, b)` back into the accumulator.
        products = tl.fma(tl.dot(a, b, input_precision="tf32x3"), one, products)
    return products


@jit
def _products_of_finite(row_ptr, column_ptr, dim, one, BLOCK_M: tl.constexpr):
    """`_products`; features that are not finite count as 0.

    Rare, so it is not pipelined and takes few features at once: registers are for the other.
    """
    products = tl.zeros([BLOCK_M, BLOCK_M], dtype=tl.float32)
    for start in tl.range(0, dim, 16, num_stages=1):
        k = start + tl.arange(0, 16)
        a = tl.load(row_ptr[:, None] + k[None, :], mask=(k < dim)[None, :], other=0.0)
        b = tl.load(column_ptr[None, :] + k[:, None], mask=(k < dim)[:, None], other=0.0)
        products = tl.fma(tl.dot(finite(a), finite(b), input_precision="tf32x3"), one, products)
    return products


@jit
def tile_of_triangle(index):
    """(row, column) of a running number in a lower triangle, stored row by row."""
    row = ((tl.sqrt(8.0 * index + 1.0) - 1.0) * 0.5).to(tl.int32)
    row = tl.where(triangle_offset(row, 0) > index, row - 1, row)  # the root is rounded
    row = tl.where(triangle_offset(row + 1, 0) <= index, row + 1, row)
    return row, index - triangle_offset(row, 0)


@jit
def triangle_offset(row, column):
    """Place of a pair in the lower triangle of a symmetric matrix, stored row by row; int32."""
    return row * (row + 1) // 2 + column
