"""What is checked before anything is pruned, where it needs no server to see."""

import pytest
import torch

from vllm_script import checks


def test_rocm_is_refused_before_anything_else(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "7.1.25424")
    with pytest.raises(ValueError, match="does not support ROCm: .* remove --plugin script") as e:
        checks.check_supported(None, None)
    assert "\n" not in str(e.value)
