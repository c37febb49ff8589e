import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Shared memory a thread block may have: 163 KiB on sm_80, 227 KiB on sm_90.
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}

KERNELS = {
    "_direction_kernel",
    "_gather_kernel",
    "_redundancy_kernel",
    "_rescale_kernel",
    "_score_kernel",
    "_select_kernel",
    "_similarity_kernel",
}


@pytest.fixture(scope="module")
def builds(tmp_path_factory):
    pytest.importorskip("triton", reason="Triton is not installed: nothing to compile")
    env = os.environ | {
        "TRITON_INTERPRET": "0",
        "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton")),
        "PYTHONSAFEPATH": "1",
    }
    script = Path(__file__).with_name("compile_kernels.py")
    run = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.mark.parametrize("arch", SHARED_LIMIT)
def test_kernels_compile_within_limits(builds, arch):
    own = [build for build in builds if build["arch"] == arch]
    assert {build["kernel"] for build in own} == KERNELS
    for build in own:
        assert build["cubin_bytes"] > 0, build
        assert build["shared_bytes"] <= SHARED_LIMIT[arch], build
        assert build["spill_bytes"] == 0, build
