import subprocess
import sys

import pytest
import torch

from vllm_script import select_visual_tokens
from vllm_script.pruning import PruningParams

TOKENS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def with_value(x: torch.Tensor, value: float) -> torch.Tensor:
    x = x.clone()
    x.view(-1)[1] = value
    return x


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"visual_tokens": torch.zeros(2, 3, 4)}, r"\[N, D\].* got shape \(2, 3, 4\); pass the"),
        ({"visual_tokens": torch.zeros(4)}, r"\[N, D\] with N >= 1, got shape \(4,\)"),
        ({"visual_tokens": torch.zeros(0, 4)}, r"\[N, D\] with N >= 1, got shape \(0, 4\)"),
        ({"budget": 0}, r"budget must be an integer in \[1, 6\].* got 0"),
        ({"budget": 7}, r"budget must be an integer in \[1, 6\].* got 7"),
        ({"budget": 2.0}, r"budget must be an integer in \[1, 6\].* got 2\.0"),
        ({"budget": True}, r"budget must be an integer in \[1, 6\].* got True"),
        ({"visual_tokens": with_value(TOKENS, torch.nan)}, "visual_tokens .* 1 NaN .* 24 values"),
        ({"visual_tokens": with_value(TOKENS, torch.inf)}, "visual_tokens .* 1 NaN .* 24 values"),
        ({"relevance": torch.ones(5)}, r"relevance must have shape \[6\].* got shape \(5,\)"),
        ({"relevance": torch.ones(6, 1)}, r"relevance must have shape \[6\].* \(6, 1\)"),
        ({"relevance": with_value(torch.ones(6), torch.nan)}, "relevance must be finite, got 1"),
        ({"relevance": with_value(torch.ones(6), -0.25)}, "relevance must be >= 0, got -0.25"),
        ({"mode": "scripts"}, "mode must be one of script, gsp, .*random.*, got 'scripts'"),
        ({"taau": 0.2}, "unknown parameter 'taau', valid are: tau, tau_relative, gamma, pool"),
        ({"tau": 1.5}, r"tau must be a number in \[-1, 1\], got 1\.5"),
        ({"tau": "0.2"}, r"tau must be a number in \[-1, 1\], got '0\.2'"),
        ({"tau_relative": 1}, "tau_relative must be true or false, got 1"),
        ({"gamma": -1}, r"gamma must be a number in \[0, 10\], got -1"),
        ({"gamma": float("nan")}, r"gamma must be a number in \[0, 10\], got nan"),
        ({"pool_ratio": 2}, r"pool_ratio must be a number in \[0, 1\], got 2"),
        ({"seed": -1}, r"seed must be an integer in \[0, 4294967295\], got -1"),
        ({"seed": 1.0}, r"seed must be an integer in \[0, 4294967295\], got 1\.0"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_select_visual_tokens_errors(changed, message):
    arguments = {"visual_tokens": TOKENS, "budget": 3, **changed}
    with pytest.raises(ValueError, match=message):
        select_visual_tokens(**arguments)


def test_params_defaults_are_valid():
    assert PruningParams() == PruningParams(0.1, True, 1.0, 0.25, 0)


def test_import_does_not_import_vllm(tmp_path):
    code = "import sys, vllm_script; print('vllm' in sys.modules, vllm_script.__version__)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["False", "0.1.0"]
