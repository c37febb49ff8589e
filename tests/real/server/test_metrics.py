"""The server's /metrics: what was pruned, how long it took, what the caches saved."""

import openai
import pytest

N = 192
"""Visual tokens of a 168x168 picture without pruning: 36 of the base tile, 12 rows of 12 + 1."""
COUNTERS = (
    "script_images_total",
    "script_visual_tokens_in_total",
    "script_visual_tokens_kept_total",
    "script_keep_ratio_count",
    "script_preprocess_seconds_count",
    "script_encoder_seconds_count",
    "script_selection_seconds_count",
)


@pytest.fixture
def counted(pruning_server, metric):
    """counted(name, **labels) -> by how much the server's metric has grown in this test."""
    names = [(name, {}) for name in COUNTERS]
    names += [
        (f"script_cache_{what}_total", {"cache": cache})
        for what in ("hits", "misses")
        for cache in ("pixels", "features")
    ]
    before = {repr(pair): metric(pruning_server, pair[0], **pair[1]) for pair in names}
    return lambda name, **labels: (
        metric(pruning_server, name, **labels) - before[repr((name, labels))]
    )


def test_tokens_add_up_to_what_vllm_counts(pruning_server, picture, ask, counted):
    text = {"type": "text", "text": "How many?"}
    whole = ask(pruning_server, [picture(168, 168, 900), text], {"keep_ratio": 1.0})
    words = whole.prompt_tokens - N
    assert counted("script_images_total") == 0, "an image that is left whole"
    answers = [
        ask(pruning_server, [picture(168, 168, seed), text], script)
        for seed, script in [
            (901, None), (902, {"keep_ratio": 0.5}), (901, None),
            (903, {"mode": "uniform"}), (904, {"visual_token_budget": 7}),
        ]
    ]  # fmt: skip
    kept = sum(answer.prompt_tokens - words for answer in answers)
    assert counted("script_visual_tokens_kept_total") == kept
    assert counted("script_visual_tokens_in_total") == 5 * N
    assert counted("script_images_total") == counted("script_keep_ratio_count") == 5
    # The third request is the first again: vLLM had its rows.
    assert counted("script_selection_seconds_count") == 4


def test_image_sent_as_its_uuid_alone_is_not_counted(pruning_server, picture, ask, counted):
    image = picture(168, 168, 905) | {"uuid": "metrics"}
    text = {"type": "text", "text": "How many?"}
    ask(pruning_server, [image, text])
    ask(pruning_server, [image | {"image_url": None}, text])
    assert counted("script_images_total") == 1


def test_second_question_is_neither_preprocessed_nor_encoded(pruning_server, picture, ask, counted):
    for number, question in enumerate(["What is shown?", "How many people are there?"]):
        ask(pruning_server, [picture(168, 168, 910), {"type": "text", "text": question}])
        assert counted("script_preprocess_seconds_count") == 1
        assert counted("script_encoder_seconds_count") == 1
        assert counted("script_selection_seconds_count") == 1 + number
        for cache in ("pixels", "features"):
            assert counted("script_cache_hits_total", cache=cache) == number
            assert counted("script_cache_misses_total", cache=cache) == 1


def test_sizes_and_times_are_there(pruning_server, picture, ask, metric):
    ask(pruning_server, [picture(168, 168, 920), {"type": "text", "text": "What?"}])
    for cache in ("pixels", "features"):
        assert metric(pruning_server, "script_cache_bytes", cache=cache) > 0
    for name in ("preprocess", "encoder", "selection"):
        assert metric(pruning_server, f"script_{name}_seconds_sum") > 0


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ({"keep_ratio": 7}, "keep_ratio"),
        ({"mode": "best"}, "mode"),
        ({"query": ""}, "query"),
        ({"keep": 0.5}, "unknown"),
    ],
)
def test_refusals_are_counted(pruning_server, picture, ask, metric, script, reason):
    before = metric(pruning_server, "script_refusals_total", reason=reason)
    with pytest.raises(openai.BadRequestError):
        ask(pruning_server, [picture(168, 168), {"type": "text", "text": "What?"}], script)
    assert metric(pruning_server, "script_refusals_total", reason=reason) == before + 1


def test_stock_server_has_none(stock_server, metric):
    assert metric(stock_server, "script_images_total") == 0
    assert metric(stock_server, "vllm:num_requests_running", engine="0") == 0
