"""Costs are found again in results that were made of them."""

import pytest

from vllm_script.benchmarks.common import read_lines
from vllm_script.benchmarks.scale import MEASURED
from vllm_script.benchmarks.scaling.costs import Costs, busiest, bytes_of, costs_of, fitted

TRUE = Costs(
    encoder_ms=8.0,
    selection_ms=5.0,
    prefill_ms=0.03,
    attention_ms=0.0,
    decode_ms=0.5,
    at_once=32,
    row_bytes=8192,
    kv_bytes=2 * 32 * 4096 * 2,
)


def arm(costs, prompt_tokens, keep_ratio=None, concurrency=32, **changes):
    """A line of serve_bench.py, of a server that is never idle."""
    selection = costs.selection_ms if keep_ratio not in (None, 1.0) else 0.0
    busy = costs.encoder_ms + selection + costs.language_ms(prompt_tokens, 16)
    line = {
        "cell": f"672x672, concurrency {concurrency}",
        "concurrency": concurrency,
        "again": False,
        "keep_ratio": keep_ratio,
        "requests_per_s": 1000 / busy,
        "prompt_tokens": float(prompt_tokens),
        "visual_kv_tokens": float(prompt_tokens - 38),
        "split_ms": {
            "encoder": costs.encoder_ms if keep_ratio else None,
            "selection": selection or None,
        },
        "about": {
            "model": "llava-next-7b, dummy weights",
            "output_tokens": 16,
            "machine": "a GPU",
            "date": "2026-11-26",
        },
    }
    return line | changes


def lines(costs=TRUE):
    return [arm(costs, 2966), arm(costs, 360, 0.11)]


def found(costs):
    return pytest.approx(vars(costs), rel=1e-9)


def test_two_lengths():
    assert vars(costs_of(lines(), 0.11, 2)) == found(TRUE)


def test_three_lengths_tell_pairs_of_tokens_from_tokens():
    true = Costs(**vars(TRUE) | {"attention_ms": 1e-5})
    three = [*lines(true), arm(true, 1502, 0.5)]
    assert vars(costs_of(three, 0.11, 2)) == found(true)


def test_a_line_through_two_points():
    assert fitted([100, 300], [20, 40]) == pytest.approx((10, 0.1, 0))


@pytest.mark.parametrize(
    ("lengths", "milliseconds", "expected"),
    [
        ([100, 200, 300], [20, 26, 28], (50 / 3, 0.04, 0)),  # pairs would cost -0.0002
        ([100, 300], [5, 45], (0, 0.14, 0)),  # the rest would cost -15
        ([100, 300], [40, 20], (30, 0, 0)),  # a token would cost -0.1
    ],
    ids=["pairs", "whatever its length", "tokens"],
)
def test_no_cost_is_below_0(lengths, milliseconds, expected):
    """What is left is fitted by least squares: 100 * 5 + 300 * 45 over 100^2 + 300^2 are 0.14."""
    assert fitted(lengths, milliseconds) == pytest.approx(expected)


def test_what_is_given_replaces_what_was_measured():
    costs = costs_of(lines(), 0.25, 2, selection_ms=1.0, kv_bytes=7)
    assert (costs.selection_ms, costs.kv_bytes, costs.row_bytes) == (1.0, 7, 8192)


def test_the_largest_load_counts():
    idle = [arm(TRUE, 2966, concurrency=1), arm(TRUE, 360, 0.11, concurrency=1)]
    at_a_rate = arm(TRUE, 2966, concurrency=None)
    second = arm(TRUE, 360, 0.11, concurrency=64, again=True)
    assert busiest([*idle, *lines(), at_a_rate, second]) == lines()


@pytest.mark.parametrize(
    ("arms", "words"),
    [
        ([], "two prompt lengths"),
        ([arm(TRUE, 2966)], "two prompt lengths"),
        ([arm(TRUE, 2966), arm(TRUE, 360)], "timed the encoder"),
    ],
    ids=["none", "one arm", "no timer"],
)
def test_results_that_do_not_say_enough(arms, words):
    with pytest.raises(ValueError, match=words):
        busiest(arms)


def test_a_keep_ratio_that_was_not_measured():
    with pytest.raises(ValueError, match=r"0\.2 was not measured, 0\.11 were; give --selection-ms"):
        costs_of(lines(), 0.2, 2)


def test_bytes():
    assert bytes_of("llava-next-7b, dummy weights", 2) == (8192, 524_288)
    # Qwen2.5-VL-3B: 36 layers, two of 16 heads hold keys and values, of 128 each.
    assert bytes_of("qwen2.5-vl-3b", 2) == (4096, 2 * 36 * 2 * 128 * 2)
    with pytest.raises(ValueError, match="give --row-bytes and --kv-bytes"):
        bytes_of("another", 2)


def test_the_committed_results_of_a_gpu():
    """An instance has room for as many tokens as its server was given bytes for."""
    arms = busiest(read_lines(MEASURED))
    costs = costs_of(arms, 0.11, 2)
    assert costs.at_once == 32
    assert 50_500_000_000 // costs.kv_bytes // 16 * 16 == arms[0]["kv_cache_tokens"]
    for line in arms:
        pruned = costs.selection_ms if line["keep_ratio"] else 0.0
        busy = costs.encoder_ms + pruned + costs.language_ms(line["prompt_tokens"], 16)
        assert 1000 / busy == pytest.approx(line["requests_per_s"], rel=1e-6)
