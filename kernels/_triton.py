"""One import point for Triton, so every kernel file loads without it, and the choice of backend.

Not vllm.triton_utils: on a machine without a GPU that one disables even the interpreter.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch

try:
    import triton
    import triton.language as tl

    HAS_TRITON = True
except ImportError:
    triton: Any = None  # type: ignore[no-redef]
    tl: Any = None  # type: ignore[no-redef]
    HAS_TRITON = False

Backend = Literal["auto", "triton", "torch"]

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def jit(fn: Any = None, *, varying: Sequence[str] = (), any_place: Sequence[str] = ()) -> Any:
    """`triton.jit` where Triton is installed, else `fn` unchanged (never launched).

    Triton compiles a kernel anew for integers that are 1 or multiples of 16, and for pointers to
    multiples of 16 bytes.

    Args:
        varying: integers that differ from image to image, for whose values it is not compiled anew.
        any_place: pointers that may be to the middle of a tensor, likewise.
    """
    if fn is None:
        return partial(jit, varying=varying, any_place=any_place)
    if not HAS_TRITON:
        return fn
    decorate: Any = triton.jit(
        do_not_specialize=list(varying), do_not_specialize_on_alignment=list(any_place)
    )
    return decorate(fn)


def is_interpreted() -> bool:
    """Whether kernels run in Triton's interpreter: on the CPU, one program after the other."""
    return bool(triton.knobs.runtime.interpret)


def use_triton(backend: Backend, x: torch.Tensor) -> bool:
    """Whether the Triton kernel runs on x: "auto" is Triton on CUDA and the reference elsewhere.

    A ROCm GPU, which torch also calls CUDA, is elsewhere.

    Raises:
        ValueError: backend is unknown, or it is "triton" and x is where no kernel can run.
        ImportError: backend is "triton" and Triton is not installed.
    """
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}, got {backend!r}")
    if backend == "triton" and not HAS_TRITON:
        raise ImportError('backend "triton" needs Triton: pip install triton, or backend "auto"')
    on_cuda = x.is_cuda and torch.version.hip is None
    if backend == "triton" and not on_cuda and not is_interpreted():
        raise ValueError(
            f'backend "triton" needs tensors on an NVIDIA GPU, got one on {x.device}'
            f'{"" if torch.version.hip is None else " of ROCm"}; use backend "auto", '
            "or set TRITON_INTERPRET=1 before Triton is imported"
        )
    return backend == "triton" or (backend == "auto" and HAS_TRITON and on_cuda)


def check_rows(name: str, x: torch.Tensor) -> None:
    """Kernels walk rows at any distance from each other, but the values of a row one by one."""
    if x.dim() != 2 or (x.shape[1] > 1 and x.stride(1) != 1):
        raise ValueError(
            f"{name} must be [rows, values] with a contiguous last dim, "
            f"got shape {tuple(x.shape)} and strides {x.stride()}"
        )


def check_features(name: str, x: torch.Tensor) -> None:
    """Raise ValueError unless x is what `check_rows` asks for, of a dtype that kernels multiply."""
    check_rows(name, x)
    if x.dtype not in DTYPES:
        raise ValueError(f"{name} must be float32, float16 or bfloat16, got {x.dtype}")
