"""Nothing is compiled after start-up: the model's warm-up reaches all that requests reach."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vllm_script.kernels import warm_up as kernels_warm_up
from vllm_script.worker import warm_up

pytest.importorskip("triton", reason="Triton is not installed: nothing to compile")


def variants(*arguments):
    script = Path(__file__).with_name("variants.py")
    env = os.environ | {"TRITON_INTERPRET": "0", "PYTHONSAFEPATH": "1"}
    command = [sys.executable, script, *map(str, arguments)]
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("num_requests", [1000, pytest.param(3000, marks=pytest.mark.slow)])
def test_no_request_needs_a_variant_that_is_not_there(num_requests):
    """Random sizes, ratios, modes, sources of relevance, images and videos, of several models.

    Without selections in frames the warm-up is not enough for videos, and that is found.
    """
    found, left_out = variants(num_requests, 140)
    assert len(found) == 6 and sum(each["requests"] for each in found.values()) == num_requests
    for each in found.values():
        assert 10 < each["warm"] < 40 and 0 < each["thinned"] < 10
        assert each["new"] == {}
    assert left_out["LLaVA-NeXT 7B on H100"]["new"] == {}
    new = left_out["Qwen2.5-VL 7B on H100"]["new"]
    assert new and all(name.startswith("_select_kernel") for name in new)


@pytest.mark.parametrize(
    ("backend", "on_gpu"), [("auto", False), ("triton", False), ("torch", False), ("torch", True)]
)
def test_where_no_kernel_is_compiled_nothing_is_warmed_up(backend, on_gpu, caplog, monkeypatch):
    """In plain PyTorch, and in the interpreter, where "triton" runs on a CPU."""
    monkeypatch.setattr(warm_up, "warm_up", lambda *_: pytest.fail("nothing is to be compiled"))
    if on_gpu:
        monkeypatch.setattr(warm_up, "kernels_run", lambda device: True)
    with caplog.at_level(logging.INFO, "vllm.script"):
        warm_up.compile_kernels(32, 32, None, torch.float32, torch.device("cpu"), backend)
    assert caplog.records == []


def test_the_log_says_how_long_it_took(caplog, monkeypatch):
    monkeypatch.setattr(warm_up, "kernels_run", lambda device: True)
    monkeypatch.setattr(warm_up, "warm_up", lambda *_: None)
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    with caplog.at_level(logging.INFO, "vllm.script"):
        warm_up.compile_kernels(32, 32, None, torch.float32, torch.device("cpu"), "auto")
    # Where vLLM has set up its logging in this process, a record comes by two ways.
    first, last = dict.fromkeys(record.getMessage() for record in caplog.records)
    assert "compiles" in first and last.endswith("ready after 0.0 seconds")


def test_every_variant_runs(monkeypatch):
    """On images of a few tokens, in the interpreter where there is no GPU."""
    monkeypatch.setattr(kernels_warm_up, "MAX_TOKENS", 100)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kernels_warm_up.warm_up(32, 64, [32, 16], torch.float32, device, "triton")
