"""Make the parts of soak.py importable."""

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

from vllm_script.benchmarks.serving.expected import Expected  # noqa: E402
from vllm_script.benchmarks.soaking.mix import Mix  # noqa: E402
from vllm_script.server.aliases import repository_of  # noqa: E402


@pytest.fixture(scope="session")
def mix():
    """What is asked of script-demo with 2048 tokens of context."""
    return Mix(Expected(repository_of("script-demo")), "soak", 0.11, 2048)
