import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Shared memory a thread block may have: 163 KiB on sm_80, 227 KiB on sm_90.
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}

# 32-bit registers of a multiprocessor, in both.
REGISTERS = 65536

KERNELS = {
    "_direction_kernel",
    "_gather_kernel",
    "_inverse_norm_kernel",
    "_redundancy_kernel",
    "_reduce_kernel",
    "_rescale_kernel",
    "_score_kernel",
    "_select_kernel",
    "_similarity_kernel",
    "_tile_kernel",
}


def builds(cache, *options):
    env = os.environ | {
        "TRITON_INTERPRET": "0",
        "TRITON_CACHE_DIR": str(cache),
        "PYTHONSAFEPATH": "1",
    }
    script = Path(__file__).with_name("compile_kernels.py")
    run = subprocess.run(
        [sys.executable, script, *options], env=env, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.mark.parametrize(
    "options", [(), pytest.param(("--everything",), marks=pytest.mark.slow)], ids=["usual", "all"]
)
def test_kernels_compile_within_limits(options, tmp_path):
    pytest.importorskip("triton", reason="Triton is not installed: nothing to compile")
    done = builds(tmp_path, *options)
    for arch, shared_limit in SHARED_LIMIT.items():
        own = [build for build in done if build["arch"] == arch]
        assert {build["kernel"] for build in own} == KERNELS
        for build in own:
            assert build["cubin_bytes"] > 0, build
            assert build["shared_bytes"] <= shared_limit, build
            assert build["spill_bytes"] == 0, build
            # One program must fit: those that meet take a multiprocessor each.
            assert build["registers"] * build["warps"] * 32 <= REGISTERS, build
