"""The kernels' cosines as tensor cores would sum them, through the gates that a GPU's must pass.

A tensor core multiplies exactly, but adds a few products at a time to its accumulator by aligning
all of them to the largest and cutting off what is below. Its parameters were found by experiments:
M. Khattak and M. Mikaitis, github.com/north-numerical-computing/MATLAB-tensor-core, models of the
H100 (16 products at a time, 2 bits more than float32) and the A100 (8 products, 1 bit).
"""

import sys

import numpy as np
import pytest
import torch
from triton.runtime import interpreter

from vllm_script.kernels.greedy_map import RESIDUAL_FLOOR
from vllm_script.kernels.testing import assert_picks, unit_rows64

from .ops import greedy_map, similarity_of

SIMILARITY = sys.modules["vllm_script.kernels.similarity"]
NUM_TOKENS, DIM, BUDGET = 128, 4096, 64
ALL, TILE = (
    slice(None),
    {"BLOCK_M": 128, "BLOCK_K": SIMILARITY.PROMOTED_FEATURES, "ALIGNMENT": 1},
)

TENSOR_CORES = {"H100": (16, 2), "A100": (8, 1)}
"""Products that are added at a time, and bits that are kept below those of float32."""


@pytest.fixture(params=TENSOR_CORES.values(), ids=TENSOR_CORES.keys())
def tensor_core(request, monkeypatch):
    """The interpreter multiplies as this GPU does."""
    num_added, extra_bits = request.param

    def create_dot(self, a, b, acc, input_precision, max_num_imprecise_acc):
        a, b, total = _exact(a), _exact(b), acc.data.astype(np.float64)
        for start in range(0, a.shape[1], num_added):
            products = (
                a[:, None, start : start + num_added] * b.T[None, :, start : start + num_added]
            )
            largest = np.maximum(np.abs(products).max(2), np.abs(total))
            unit = np.ldexp(1.0, np.frexp(largest)[1] - 24 - extra_bits)
            kept = np.trunc(products / unit[..., None]).sum(2) + np.trunc(total / unit)
            total = _truncated(kept * unit)
        return interpreter.TensorHandle(total.astype(np.float32), acc.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)


def _exact(handle):
    """Values as float64; the interpreter has those of bfloat16 as the bits that they are."""
    if handle.data.dtype == np.uint16:
        return (handle.data.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return handle.data.astype(np.float64)


def _truncated(values):
    """Values cut off to the bits of a float32."""
    unit = np.ldexp(1.0, np.frexp(np.abs(values))[1] - 24)
    return np.trunc(values / unit) * unit


@pytest.fixture(params=[torch.bfloat16, torch.float16], ids=str)
def x(request):
    """Rows in clusters with a common offset; the last quarter repeats the first."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(NUM_TOKENS // 4, DIM, generator=generator) + 0.5
    labels = torch.randint(len(centres), (NUM_TOKENS,), generator=generator)
    rows = centres[labels] + 0.5 * torch.randn(NUM_TOKENS, DIM, generator=generator)
    rows[-NUM_TOKENS // 4 :] = rows[: NUM_TOKENS // 4]
    return rows.to(request.param)


def check(x, tile, monkeypatch, assert_as_accurate):
    """The gates: cosines as accurate as float32's, copies that leave nothing, the best picks."""
    monkeypatch.setattr(SIMILARITY, "tile_constants", lambda x: tile)
    actual, reference = (
        similarity_of(rows, backend=backend).block(0, ALL, ALL)
        for rows, backend in ((x, "triton"), (x.float(), "torch"))
    )
    unit = unit_rows64(x)
    assert_as_accurate(actual, reference, unit @ unit.T)
    copies = actual[-NUM_TOKENS // 4 :, : NUM_TOKENS // 4].diagonal()
    assert (1 - copies.double().square()).max() < RESIDUAL_FLOOR / 2
    relevance = torch.rand(NUM_TOKENS, generator=torch.Generator().manual_seed(1))
    picks = greedy_map(x, relevance, BUDGET, backend="triton")
    assert assert_picks(x, relevance, torch.arange(NUM_TOKENS), picks) == 0


def test_sums_that_leave_the_accumulator_early_pass(
    tensor_core, x, monkeypatch, assert_as_accurate
):
    check(x, TILE, monkeypatch, assert_as_accurate)


def test_sums_that_stay_in_the_accumulator_do_not(tensor_core, x, monkeypatch, assert_as_accurate):
    with pytest.raises(AssertionError, match=r"error .*, allowed"):
        check(x, {**TILE, "BLOCK_K": DIM}, monkeypatch, assert_as_accurate)
