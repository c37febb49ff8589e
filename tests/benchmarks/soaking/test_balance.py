"""The sums: they hold for what was sent, and each of them notices one too many."""

import pytest

from vllm_script.benchmarks.scrape import Scrape
from vllm_script.benchmarks.soaking.balance import balance, caches_filled, idle
from vllm_script.benchmarks.soaking.client import HUNG_UP, TOKENIZE, Outcome, Request
from vllm_script.benchmarks.soaking.ledger import Ledger, asks_again

HANG_UP = Request("hang-up", {}, prompt_tokens=60, pruned=((1008, 50),), hang_up=1.0)
TWO = Request("two", {}, prompt_tokens=250, pruned=((1008, 111), (256, 28)))
WHOLE = Request("whole", {}, prompt_tokens=1020)
COUNTED = Request("count", {}, TOKENIZE, prompt_tokens=120, pruned=((1008, 111),))
LATE = Request("late", {}, status=400, pruned=((1008, 111),))
WRONG = Request("wrong", {}, status=400, refusal="mode")

# Hung up on three times: once answered, once read by the engine, once only processed.
GROWN = {
    'script_images_total{query="conversation"}': 2 * 2 + 1 + 1,
    'script_images_total{query="request"}': 3,
    "script_keep_ratio_count": 9,
    "script_visual_tokens_in_total": 2 * 1264 + 2 * 1008 + 3 * 1008,
    "script_visual_tokens_kept_total": 2 * 139 + 2 * 111 + 3 * 50,
    "vllm:prompt_tokens_total": 2 * 250 + 1020 + 2 * 60,
    'script_refusals_total{reason="mode"}': 1,
    "script_preprocess_seconds_count": 4,
    "script_selection_seconds_count": 6,
    "script_encoder_seconds_count": 3,
    'script_cache_hits_total{cache="pixels"}': 2,
    'script_cache_misses_total{cache="pixels"}': 4,
    'script_cache_hits_total{cache="features"}': 3,
    'script_cache_misses_total{cache="features"}': 3,
    "vllm:mm_cache_hits_total": 3,
}


def scrape(values):
    return Scrape("".join(f"{name} {value}\n" for name, value in values.items()))


@pytest.fixture
def ledger():
    ledger = Ledger()
    for request in (TWO, TWO, WHOLE, COUNTED, HANG_UP):
        ledger.add(request, Outcome(200, request.prompt_tokens))
    for _ in range(2):
        ledger.add(HANG_UP, Outcome(HUNG_UP))
    for refused in (LATE, WRONG):
        ledger.add(refused, Outcome(400))
    return ledger


def failed(ledger, values):
    before = scrape({name: 5 for name in GROWN})
    after = scrape({name: 5 + value for name, value in values.items()})
    return [check.name for check in balance(before, after, ledger, HANG_UP) if not check.passed]


def test_sums_hold(ledger):
    assert ledger.errors == []
    assert failed(ledger, GROWN) == []


@pytest.mark.parametrize("name", [name for name in GROWN if "mm_cache" not in name])
def test_one_too_many_is_noticed(ledger, name):
    assert failed(ledger, GROWN | {name: GROWN[name] + 1})


def test_hang_ups_are_bounded(ledger):
    def with_hang_ups(processed, read):
        return GROWN | {
            'script_images_total{query="request"}': processed,
            "script_keep_ratio_count": 6 + processed,
            "script_visual_tokens_in_total": 2 * 1264 + 2 * 1008 + processed * 1008,
            "script_visual_tokens_kept_total": 2 * 139 + 2 * 111 + processed * 50,
            "vllm:prompt_tokens_total": 2 * 250 + 1020 + read * 60,
            "vllm:mm_cache_hits_total": 0,
        }

    assert failed(ledger, with_hang_ups(3, 1)) == failed(ledger, with_hang_ups(1, 1)) == []
    assert failed(ledger, with_hang_ups(4, 1)) == ["images of requests hung up on"]
    assert failed(ledger, with_hang_ups(2, 3)) == ["prompt tokens that vLLM read"]
    assert failed(ledger, with_hang_ups(2, 0)) == ["prompt tokens that vLLM read"]


def test_wrong_outcomes_are_errors():
    ledger = Ledger()
    ledger.add(TWO, Outcome(200, 251))
    ledger.add(TWO, Outcome(503, text="busy"))
    ledger.add(WRONG, Outcome(200))
    ledger.add(HANG_UP, Outcome(200, 61))
    assert len(ledger.errors) == 4
    assert ledger.errors[0] == "two: 251 prompt tokens instead of 250"
    assert ledger.errors[1] == "two: 503 instead of 200: busy"
    assert not ledger.refusals and ledger.images == 2


def test_request_sent_again_is_processed_twice_and_read_once():
    ledger = Ledger()
    assert asks_again(TWO, Outcome(500)) and not asks_again(WRONG, Outcome(500))
    ledger.add_resent(TWO)
    ledger.add(TWO, Outcome(200, 250))
    assert (ledger.images, ledger.prompt_tokens, ledger.resent) == (4, 250, 1)


def test_caches_must_fill_and_stay_within():
    for size, passed in ((100, True), (75, True), (74, False), (101, False)):
        looks = [{}, {"pixels": 90, "features": 1}, {"features": size}, {"features": 0}]
        assert [check.passed for check in caches_filled(looks, 100)] == [True, passed]


def test_idle():
    assert idle(scrape({"vllm:num_requests_running": 0, "vllm:kv_cache_usage_perc": 0})).passed
    assert not idle(scrape({"vllm:kv_cache_usage_perc": 0.1})).passed
