"""All variants of the kernels that a server warms up compile, and fit, without a GPU to run them.

`make test-triton` runs this file with the releases of Triton that come with PyTorch.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", reason="Triton is not installed: nothing to compile")

from .launches import SHARED_LIMIT  # noqa: E402  (it imports Triton)

REGISTERS = 65536
"""32-bit registers of a multiprocessor, of all of them."""

SPILLS = {
    ("_similarity_kernel", 80): 128,
    ("_similarity_kernel", 86): 192,
    ("_similarity_kernel", 89): 192,
    ("_similarity_kernel", 90): 128,
    ("_similarity_kernel", 100): 384,
    ("_similarity_kernel", 120): 192,
    ("_direction_kernel", 120): 16,
    ("_select_kernel", 120): 16,
}
"""Bytes at most that a thread stores or loads for want of registers, where there are any, with the
releases of Triton that we know; with 3.9.0 before and after the loops of the products, in none."""

WAITS = {
    "_cover_kernel": (2, 3),
    "_farthest_kernel": (2, 1),
    "_reduce_kernel": (1, 0),
    "_select_kernel": (2, 4),
}
"""Kernels whose programs wait for each other. They acquire in one place. In so many places they
release, behind a barrier, what all threads of a program stored; and so often at least they read
past their own cache what others write in the same phase: greedy MAP the two values of a post, and
of the pick its weight and its row, but for what of the row is copied ahead to shared memory; the
others the posts, and greedy coverage the needs. Tests on a CPU, whose memory is ordered, would not
miss it."""

SERVED = {
    "_cover_kernel",
    "_direction_kernel",
    "_farthest_kernel",
    "_gather_kernel",
    "_inverse_norm_kernel",
    "_reduce_kernel",
    "_rescale_kernel",
    "_score_kernel",
    "_select_kernel",
    "_similarity_kernel",
}


def builds(cache, arch, what):
    script = Path(__file__).with_name("compile_kernels.py")
    paths = [str(script.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | {
        "TRITON_INTERPRET": "0",
        "TRITON_CACHE_DIR": str(cache),
        "PYTHONPATH": os.pathsep.join(paths),
    }
    command = [sys.executable, script, str(arch), what]
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def parameters():
    """The GPU with most room and one with least in every run; the rest takes minutes."""
    for arch in SHARED_LIMIT:
        marks = () if arch in (90, 120) else pytest.mark.slow
        yield pytest.param(arch, "served", marks=marks)
    for arch in 80, 90:
        yield pytest.param(arch, "everything", marks=pytest.mark.slow)


@pytest.mark.parametrize(("arch", "what"), list(parameters()))
def test_kernels_compile_within_limits(arch, what, tmp_path):
    done = builds(tmp_path, arch, what)
    assert {build["kernel"] for build in done} == SERVED
    for build in done:
        assert build["triton"] == triton.__version__
        assert build["cubin_bytes"] > 0, build
        assert build["shared_bytes"] <= SHARED_LIMIT[arch] * 1024, build
        assert build["spill_bytes"] <= SPILLS.get((build["kernel"], arch), 0), build
        if build["kernel"] in WAITS:
            num_releases, num_reads = WAITS[build["kernel"]]
            memory = build["memory"]
            assert memory["acquires"] == 1, build
            assert memory["releases"] == memory["releases_behind_a_barrier"] == num_releases, build
            assert memory["reads_past_l1"] >= num_reads, build
        # One program must fit: those that meet take a multiprocessor each.
        assert build["registers"] * build["warps"] * 32 <= REGISTERS, build
