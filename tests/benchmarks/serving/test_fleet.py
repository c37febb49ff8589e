"""Arguments of the servers that are started."""

import pytest
import torch

from vllm_script.benchmarks.serving.fleet import default_flags


@pytest.mark.parametrize(
    "capabilities, float32", [({"avx2": True}, True), ({"amx_bf16": True}, False)]
)
def test_processors_without_bfloat16_get_float32(monkeypatch, capabilities, float32):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert ("float32" in default_flags(on_cpu=True)) == float32


def test_gpus_keep_the_model_s_dtype():
    assert "--dtype" not in default_flags(on_cpu=False)
