"""Inverse length of each row, which turns a product of two rows into their cosine.

The other kernels read the rows as the encoder gave them, in half the bytes of unit rows, whose
products with each other would be less exact than those of the rows: a bfloat16 or float16 product
is exact in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from ._launch import launch, run_op
from ._triton import Backend, check_features, jit, tl, triton
from .transfer import to_device

# Rows of a program, values of a row it takes at once, warps. Not yet tuned on a GPU.
BLOCK_ROWS, BLOCK_D, NUM_WARPS = 4, 1024, 4

# Values: what rows that are loaded in whole vectors begin and end at a multiple of.
ALIGNMENT = 16

# Rows that the reference copies at once: a copy of all would be memory new to the process.
REFERENCE_ROWS = 256


def inverse_norms(x: torch.Tensor, backend: Backend = "auto") -> torch.Tensor:
    """Return the inverse length of each row; a feature that is NaN or infinite counts as 0.

    Args:
        x: [N, D] float32/float16/bfloat16, last dim contiguous, rows at any stride.
        backend: "auto" is Triton on CUDA, else torch. The other two never fall back.

    Returns:
        [N] float32. Negative where the row has features that count as 0, which tells the reader
        to look. 0 for rows without length, and where its square leaves the range of float32: such
        a row has cosine 0 with anything.

    Raises:
        ValueError: x is not 2-D, its last dim is not contiguous, its dtype is another, or the
            backend cannot run on x.
        ImportError: backend is "triton" and Triton is not installed.
    """
    check_features("x", x)
    with_triton = partial(_inverse_norms_triton, x)
    with_torch = partial(inverse_norms_reference, x)
    return run_op("inverse_norms", backend, x, with_triton, with_torch)


def inverse_norms_reference(x: torch.Tensor) -> torch.Tensor:
    """`inverse_norms` in plain PyTorch; any device."""
    if len(x) == 0:
        return x.new_empty(0, dtype=torch.float32)
    return torch.cat([_inverse_norms_of_block(block) for block in x.split(REFERENCE_ROWS)])


def _inverse_norms_of_block(x: torch.Tensor) -> torch.Tensor:
    x = x.float().contiguous()  # one order of summation, whatever the strides
    length = torch.linalg.vector_norm(x, dim=1)  # [rows]
    spoiled = ~length.isfinite()
    if spoiled.any():  # rare, and a look at every value takes longer than all lengths
        spoiled = ~x.isfinite().all(1)
        length = torch.linalg.vector_norm(_finite_part(x), dim=1)
    inverse = torch.where((length > 0) & length.isfinite(), 1 / length, 0.0)
    return torch.where(spoiled, -inverse, inverse)


def unit_rows(x: torch.Tensor, inverse_norm: torch.Tensor | None = None) -> torch.Tensor:
    """Scale each row of x [N, D] to length 1, float32 and contiguous: products are cosines.

    Rows whose inverse norm is 0 become zero rows. A feature that is NaN or infinite becomes 0.
    """
    if inverse_norm is None:
        inverse_norm = inverse_norms_reference(x)
    # One copy, scaled in place: to write memory that is new takes far longer than the product.
    unit = x.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    unit.mul_(inverse_norm.abs()[:, None])
    # Clean rows stay as they are; to look is faster on a CPU, and elsewhere the host would wait.
    if unit.device.type == "cpu" and not inverse_norm.signbit().any():
        return unit
    return unit.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)


def _finite_part(x: torch.Tensor) -> torch.Tensor:
    return x.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def _inverse_norms_triton(x: torch.Tensor) -> torch.Tensor:
    inverse_norm = torch.empty(len(x), dtype=torch.float32, device=x.device)
    if len(x):
        plan = to_device(torch.tensor([[0], [0], [len(x)]]), x.device)
        launch_norms(x, plan, [len(x)], inverse_norm)
    return inverse_norm


def launch_norms(
    x: torch.Tensor, plan: torch.Tensor, lengths: Sequence[int], inverse_norm: torch.Tensor
) -> None:
    """Compute the inverse norms of images in one launch, wherever their rows are.

    Args:
        x: [N, D] rows of the first image; the others have their dtype, D and stride, and are
            aligned as they are.
        plan: int64 [3 or more, images] on their device, as the kernel has it.
        lengths: rows of each image.
        inverse_norm: float32, written where the plan says.
    """
    launch(
        _inverse_norm_kernel,
        (triton.cdiv(max(lengths), BLOCK_ROWS), len(lengths)),
        x.device,
        x_ptr=x,
        stride_xn=x.stride(0),
        plan_ptr=plan,
        inverse_ptr=inverse_norm,
        num_images=len(lengths),
        dim=x.shape[1],
        ALIGNMENT=alignment_of(x),
        BLOCK_ROWS=BLOCK_ROWS,
        BLOCK_D=BLOCK_D,
        num_warps=NUM_WARPS,
    )


def alignment_of(x: torch.Tensor) -> int:
    """Values whose multiples all rows of x [N, D] begin and end at, for a kernel's loads.

    ALIGNMENT where rows can be loaded in whole vectors, else 1: an address for each value.
    """
    places = x.data_ptr() // x.itemsize, x.stride(0), x.shape[1]
    return ALIGNMENT if all(place % ALIGNMENT == 0 for place in places) else 1


@jit(varying=("num_images",))
def _inverse_norm_kernel(
    x_ptr,
    stride_xn,
    plan_ptr,
    inverse_ptr,
    num_images,
    dim,
    ALIGNMENT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The inverse lengths of the rows of some images.

    x [N, dim] of the first image
    plan int64 [3 or more, images]: the first value of an image, counted from x, a multiple of
        ALIGNMENT; its first row among those of all, its length
    inverse float32 [sum of N]: a program writes those of its rows
    grid: (a program for every BLOCK_ROWS rows of the longest image, images)
    """
    plan_ptr += tl.program_id(1)
    num_rows = tl.load(plan_ptr + 2 * num_images)
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    row_mask = rows < num_rows
    x_ptr += tl.multiple_of(tl.load(plan_ptr), ALIGNMENT)
    squares = tl.zeros([BLOCK_ROWS], dtype=tl.float32)
    num_spoiled = tl.zeros([BLOCK_ROWS], dtype=tl.int32)
    for d_start in range(0, dim, BLOCK_D):
        d = d_start + tl.arange(0, BLOCK_D)
        mask = row_mask[:, None] & (d < dim)[None, :]
        values = tl.load(x_ptr + rows[:, None] * stride_xn + d, mask=mask, other=0.0)
        values = values.to(tl.float32)
        clean = finite(values)
        squares += tl.sum(clean * clean, 1)
        num_spoiled += tl.sum((clean != values).to(tl.int32), 1)
    inverse_norm = inverse_length(squares)
    inverse_norm = tl.where(num_spoiled > 0, -inverse_norm, inverse_norm)
    first = tl.load(plan_ptr + num_images)
    tl.store(inverse_ptr + first + rows, inverse_norm, mask=row_mask)


@jit
def finite(values):
    """The values, NaN and infinite ones as 0."""
    zeros = tl.zeros_like(values)
    return tl.where(tl.abs(values.to(tl.float32)) < float("inf"), values, zeros)


@jit
def inverse_length(squares):
    """1 / sqrt(squares); 0 where that is infinite, and where squares is."""
    usable = (squares > 0.0) & (squares < float("inf"))
    length = tl.sqrt_rn(tl.where(usable, squares, 1.0))
    return tl.where(usable, tl.div_rn(1.0 + tl.zeros_like(length), length), 0.0)
