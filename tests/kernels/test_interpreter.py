"""Where vLLM needs Triton as it is, the tests of this folder run in another process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vllm_script.kernels._triton import HAS_TRITON, is_interpreted

HERE = Path(__file__).parent
WITH_A_GPU = "import torch\ntorch.cuda.is_available = lambda: True\n"


def run_pytest(*arguments, **env):
    env = {name: value for name, value in (os.environ | env).items() if value is not None}
    command = [sys.executable, "-m", "pytest", "-q", *arguments]
    return subprocess.run(command, cwd=HERE.parents[1], env=env, capture_output=True, text=True)


@pytest.mark.skipif(not HAS_TRITON, reason="without Triton there are no kernels")
@pytest.mark.skipif(is_interpreted(), reason="this process interprets, and runs all of them itself")
def test_kernels_in_the_interpreter(request):
    env = {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    run = run_pytest(str(HERE), "-m", request.config.option.markexpr, **env)
    assert run.returncode == 0, run.stdout


@pytest.mark.skipif(not HAS_TRITON, reason="without Triton there are no kernels")
def test_interpreter_is_off_where_there_is_a_gpu(tmp_path):
    (tmp_path / "with_a_gpu.py").write_text(WITH_A_GPU)
    env = {"TRITON_INTERPRET": None, "PYTHONPATH": str(tmp_path)}
    run = run_pytest("-p", "with_a_gpu", "-rs", str(HERE / "test_norms.py"), **env)
    assert run.returncode == 0, run.stdout
    assert "passed" not in run.stdout and "test_interpreter.py runs this" in run.stdout
