"""Kernel tests: the interpreter at a bearable speed, memory that shows what was never written."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vllm_script.kernels._triton import HAS_TRITON, is_interpreted

# A kernel may be this much worse than float32 PyTorch, both against float64, plus a last bit or
# two of values around one.
ERROR_FACTOR, ABSOLUTE_ERROR = 2.0, 5e-7

HERE = Path(__file__).parent
ELSEWHERE = "Triton runs as it is in this process; test_interpreter.py runs this in another one"


def pytest_collection_modifyitems(items):
    """Skip what needs the interpreter where it is off."""
    if not HAS_TRITON or is_interpreted():
        return
    for item in items:
        needs_it = item.path.parent == HERE and item.path.name != "test_interpreter.py"
        if needs_it and not item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=ELSEWHERE))


@pytest.fixture(autouse=True)
def filled_memory():
    """torch.empty is NaN, or the largest integer, so that a value never written shows.

    The interpreter is NumPy, which warns of the overflows that kernels look for.
    """
    if torch.cuda.is_available():  # there it would also ask cuBLAS to be deterministic
        yield
        return
    torch.use_deterministic_algorithms(True)
    with np.errstate(all="ignore"):
        yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def large_tiles(monkeypatch):
    """The interpreter takes milliseconds for a program, whatever its size: few large ones."""
    for module, name, value in (
        (
            "similarity",
            "tile_constants",
            lambda x: {"BLOCK_M": 512, "BLOCK_K": 256, "ALIGNMENT": 1},
        ),
        ("reduce_graph", "BLOCK_TILE", 512),
        ("greedy_map", "TOKENS_PER_PROGRAM", 1024),
        ("norms", "BLOCK_ROWS", 512),
    ):
        # Not by their dotted names: the package's greedy_map is the function.
        monkeypatch.setattr(sys.modules[f"vllm_script.kernels.{module}"], name, value)


@pytest.fixture
def count_ties(request):
    """count_ties(choices, settled differently, beyond a tie): for the summary of the session."""

    def count(num_choices, num_differing, num_beyond_tie=0):
        counts = (num_choices, num_differing, num_beyond_tie)
        request.node.user_properties.append(("ties", counts))

    return count


@pytest.fixture
def assert_as_accurate():
    """assert_as_accurate(actual, reference, exact): the kernel errs about as little as PyTorch."""

    def check(actual, reference, exact):
        scale = exact.abs().max().clamp(min=1.0)
        error = (actual.double() - exact).abs().max()
        allowed = ERROR_FACTOR * (reference.double() - exact).abs().max() + ABSOLUTE_ERROR * scale
        assert error <= allowed, f"error {error:.3g}, allowed {allowed:.3g}"

    return check
