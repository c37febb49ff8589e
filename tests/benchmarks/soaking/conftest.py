"""What is asked."""

import pytest

from vllm_script.benchmarks.serving.expected import Expected
from vllm_script.benchmarks.soaking.mix import Mix
from vllm_script.server.aliases import repository_of


@pytest.fixture(scope="session")
def mix():
    """What is asked of script-demo with 2048 tokens of context."""
    return Mix(Expected(repository_of("script-demo")), "soak", 0.11, 2048)
