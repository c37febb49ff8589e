"""Copy the kept rows of a tensor into a tensor of their own, which holds no other row alive."""

from __future__ import annotations

from functools import partial

import torch

from ._launch import launch, run_op
from ._triton import Backend, check_rows, jit, tl, triton

# Bytes of a row that a program copies, and its warps. Not yet tuned on a GPU.
BLOCK_BYTES, NUM_WARPS = 4096, 4

# The kernel moves words of the size of a value, so every dtype is copied bit by bit.
WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.int64}


def gather_rows(x: torch.Tensor, indices: torch.Tensor, backend: Backend = "auto") -> torch.Tensor:
    """Return the rows of x at the indices, in their order.

    Args:
        x: [N, D], any dtype, last dim contiguous, rows at any stride.
        indices: [K] int64 or int32 on x's device, in [0, N); Triton does not check them.
        backend: "auto" is Triton on CUDA, else torch. The other two never fall back.

    Returns:
        [K, D] of x's dtype, contiguous, with memory of its own.

    Raises:
        ValueError: x is not 2-D, its last dim is not contiguous, indices are not 1-D integers,
            or the backend cannot run on x.
        ImportError: backend is "triton" and Triton is not installed.
    """
    check_rows("x", x)
    if indices.dim() != 1 or indices.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            "indices must be [K] of int32 or int64, "
            f"got shape {tuple(indices.shape)} of {indices.dtype}"
        )
    with_triton = partial(_gather_triton, x, indices)
    return run_op("gather_rows", backend, x, with_triton, partial(gather_reference, x, indices))


def gather_reference(x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """`gather_rows` in plain PyTorch; any device."""
    return x.index_select(0, indices)


def _gather_triton(x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    rows = x.new_empty(len(indices), x.shape[1])
    if rows.numel() == 0:
        return rows
    word = WORDS[x.dtype.itemsize]
    words, kept = x.view(word), rows.view(word)
    num_words = words.shape[1]
    block = BLOCK_BYTES // word.itemsize
    launch(
        _gather_kernel,
        (len(indices), triton.cdiv(num_words, block)),
        x.device,
        x_ptr=words,
        stride_xn=words.stride(0),
        indices_ptr=indices,
        stride_in=indices.stride(0),
        rows_ptr=kept,
        num_words=num_words,
        BLOCK_WORDS=block,
        num_warps=NUM_WARPS,
    )
    return rows


@jit
def _gather_kernel(
    x_ptr, stride_xn, indices_ptr, stride_in, rows_ptr, num_words, BLOCK_WORDS: tl.constexpr
):
    """x [rows, num_words], indices [kept] -> rows [kept, num_words].

    grid: (kept, a program for every BLOCK_WORDS of a row)
    """
    place = tl.program_id(0).to(tl.int64)
    row = tl.load(indices_ptr + place * stride_in).to(tl.int64)
    words = tl.program_id(1) * BLOCK_WORDS + tl.arange(0, BLOCK_WORDS)
    mask = words < num_words
    values = tl.load(x_ptr + row * stride_xn + words, mask=mask, other=0)
    tl.store(rows_ptr + place * num_words + words, values, mask=mask)
