"""Cosine similarity of the tokens of an image with each other: all that a selection reads of them.

GSP asks which tokens are alike, and QCSP what the picked tokens leave of each. On a GPU all cosines
are computed once, by one product of the rows with themselves, and stay there as a triangle. In
plain PyTorch they are computed block by block when they are asked for: rows.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from .._launch import launch, run_op, shared_bytes
from .._triton import Backend, check_features, triton
from .._varlen import offsets_of, places_by
from ..norms import alignment_of, launch_norms
from ..transfer import to_device
from .base import Rows, Similarity
from .kernel import _similarity_kernel
from .rows import RowSimilarity

# Places in a triangle, and what they are computed from, are 32-bit integers.
MOST_TOKENS = 46_341

# Most features after which sums leave the accumulator of the tensor core, see kernel.py.
PROMOTED_FEATURES = 128

# Bytes of shared memory that a program must be able to have to take so many features at once.
LARGE_SHARED = 200 * 1024


def cosine_similarity(
    images: Sequence[torch.Tensor],
    backend: Backend = "auto",
) -> Similarity:
    """Return the cosine similarity of the tokens of each image with each other.

    Args:
        images: [N, D] each, float32/float16/bfloat16 on one device, last dim contiguous, rows of
            any length and stride. A feature that is NaN or infinite counts as 0.
        backend: "auto" is Triton on CUDA, else torch. The other two never fall back.

    Returns:
        the similarity, float32 whatever the dtype of the rows. With Triton it has its own memory,
        2 N (N + 1) bytes an image; otherwise it holds the images.

    Raises:
        ValueError: there is no image, one has more than 46,341 tokens, strides or dtypes do not
            fit, or the backend cannot run on them.
        ImportError: backend is "triton" and Triton is not installed.
    """
    if not images:
        raise ValueError("there must be an image at least")
    x = images[0]
    for image in images:
        check_features("images", image)
        if (image.dtype, image.shape[1], image.device) != (x.dtype, x.shape[1], x.device):
            raise ValueError(
                "images must have one dtype, row length and device, got "
                f"{tuple(x.shape)} {x.dtype} and {tuple(image.shape)} {image.dtype}"
            )
        if len(image) > MOST_TOKENS:
            raise ValueError(
                f"an image must have at most {MOST_TOKENS} tokens, got {len(image)}; select in "
                "windows, as vllm_script.pruning does"
            )
    with_triton = partial(TriangleSimilarity, images, backend)
    with_torch = partial(RowSimilarity, images, backend)
    return run_op("cosine_similarity", backend, x, with_triton, with_torch)


class TriangleSimilarity(Similarity):
    """All cosines, computed by Triton: the lower triangle of each image, row by row."""

    def __init__(self, images: Sequence[torch.Tensor], backend: Backend) -> None:
        super().__init__(images, backend)
        self.offsets = offsets_of(length * (length + 1) // 2 for length in self.lengths)
        """Where the triangle of each image begins in `values`, and where the last one ends."""
        self.values = torch.empty(self.offsets[-1], dtype=torch.float32, device=self.device)
        """The triangles of all images, one after the other."""
        _compute_triangles(images, self.offsets, self.values)

    def block(self, image: int, rows: Rows, columns: Rows) -> torch.Tensor:
        numbers = torch.arange(self.lengths[image], device=self.device)
        a, b = numbers[rows][:, None], numbers[columns][None, :]
        high, low = torch.maximum(a, b), torch.minimum(a, b)
        return self.values[self.offsets[image] + high * (high + 1) // 2 + low]

    def has_length(self, image: int) -> torch.Tensor:
        diagonal = torch.arange(1, self.lengths[image] + 1, device=self.device).cumsum(0) - 1
        return self.values[self.offsets[image] + diagonal] > 0


def _compute_triangles(
    images: Sequence[torch.Tensor], triangles: list[int], values: torch.Tensor
) -> None:
    """Launches for all images of a kind, whose rows they read where they are: of the norms, and of
    the products, a grouped GEMM."""
    lengths = [len(image) for image in images]
    first_rows = offsets_of(lengths)
    inverse_norm = values.new_empty(first_rows[-1])
    kinds = [(image.stride(0), alignment_of(image)) for image in images]
    for (stride, _), places in places_by(kinds).items():
        x = images[places[0]]
        own_lengths = [lengths[place] for place in places]
        plan = [
            [(images[place].data_ptr() - x.data_ptr()) // x.itemsize for place in places],
            [first_rows[place] for place in places],
            own_lengths,
            [triangles[place] for place in places],
        ]
        on_device = to_device(torch.tensor(plan), x.device)
        launch_norms(x, on_device, own_lengths, inverse_norm)
        tile = tile_constants(x)
        num_blocks = triton.cdiv(max(own_lengths), tile["BLOCK_M"])
        launch(
            _similarity_kernel,
            (num_blocks * (num_blocks + 1) // 2, len(places)),
            x.device,
            x_ptr=x,
            stride_xn=stride,
            inverse_ptr=inverse_norm,
            plan_ptr=on_device,
            triangles_ptr=values,
            num_images=len(places),
            dim=x.shape[1],
            one=1.0,
            **tile,
        )


def tile_constants(x: torch.Tensor) -> dict[str, Any]:
    """Tile, pipeline depth, warps and registers for rows like those of x.

    They compile without spills in a loop, as long as the compiler does not save registers for a
    second program on the multiprocessor. On an H200, of ten choices for bfloat16, this took 119 µs
    for an image of 2,880 rows of 4,096 and 726 for eight; with 64 features at once, which fit any
    GPU's shared memory, 132 and 803. Others are not tuned. Float32 rows take three products on the
    tensor cores.
    """
    alignment = alignment_of(x)
    if x.dtype == torch.float32 or alignment == 1:
        block, block_k = 64, 16
    else:
        is_large = shared_bytes(x.device) >= LARGE_SHARED
        block, block_k = 128, PROMOTED_FEATURES if is_large else PROMOTED_FEATURES // 2
    return {
        **{"BLOCK_M": block, "BLOCK_K": block_k, "ALIGNMENT": alignment},
        **{"num_warps": 8, "num_stages": 3, "maxnreg": 255},
    }
