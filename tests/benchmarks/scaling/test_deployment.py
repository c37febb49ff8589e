"""What follows from costs, worked by hand."""

import pytest

from vllm_script.benchmarks.scaling.costs import Costs
from vllm_script.benchmarks.scaling.deployment import Deployment, Load, load_of

from .test_costs import lines

COSTS = Costs(
    encoder_ms=10.0,
    selection_ms=4.0,
    prefill_ms=0.1,
    attention_ms=0.0001,
    decode_ms=2.0,
    at_once=8,
    row_bytes=100,
    kv_bytes=1000,
)
LOAD = Load(
    requests_per_s=50, images=2, visual_tokens=200, text_tokens=20, output_tokens=5, busy=0.5
)


def test_unpruned():
    """Two images of 200 tokens: prompts of 420, 42 ms and 17.64 for pairs, 10 for the answer."""
    found = Deployment(COSTS, LOAD, 1.0)
    assert (found.kept, found.prompt_tokens) == (200, 420)
    assert found.encoder_ms == 20
    assert found.language_ms == pytest.approx(42 + 17.64 + 10)
    assert (found.encoders, found.language_models, found.servers) == (2, 7, 9)
    assert found.pair_requests_per_s == pytest.approx(1000 / 69.64)
    assert found.row_bytes == 2 * 200 * 100
    assert found.network_bytes_per_s == 50 * 40_000
    assert found.kv_bytes == 425_000
    assert found.kv_bytes_of_instance == 8 * 425_000


def test_pruned():
    """22 of 200 stay: prompts of 64, 6.4 ms and 0.4096 for pairs. The encoder is the longer one."""
    found = Deployment(COSTS, LOAD, 0.11)
    assert (found.kept, found.prompt_tokens) == (22, 64)
    assert found.encoder_ms == 28
    assert found.language_ms == pytest.approx(6.4 + 0.4096 + 10)
    assert (found.encoders, found.language_models, found.servers) == (3, 2, 5)
    assert found.pair_requests_per_s == pytest.approx(1000 / 28)
    assert found.network_bytes_per_s == 50 * 2 * 22 * 100
    assert found.kv_bytes == 69_000


def test_an_instance_is_not_added_for_a_rounding_error():
    """10 requests/s of 70 ms are 0.7, of an instance that may be busy for 0.7 of its time."""
    costs = Costs(70.0, 0.0, 0.0, 0.0, 0.0, 1, 1, 1)
    load = Load(10, 1, 100, 0, 1, busy=0.7)
    assert Deployment(costs, load, 1.0).encoders == 1


@pytest.mark.parametrize("busy", [0, -0.5, 1.1, float("nan")])
def test_a_share_of_an_instances_time(busy):
    words = f"--busy is {busy:g}; give a share above 0 and at most 1"
    with pytest.raises(ValueError, match=words):
        load_of(lines(), busy=busy)


def test_what_is_asked_is_what_was_asked():
    assert load_of(lines()) == Load(1.0, 1, 2928, 38, 16)
    assert load_of(lines(), images=3, busy=0.9) == Load(1.0, 3, 2928, 38, 16, 0.9)
