"""Shadow mode: answers are stock's, and the metrics say how pruned ones would differ."""

import math
import time

import httpx
import openai
import pytest

BUDGET = 60
KEY = "none"
"""What the test's client sends."""


@pytest.fixture(scope="module")
def shadow_server(vllm_server):
    """Every request is compared; pictures of more than 60 visual tokens would be pruned."""
    flags = ("--visual-token-budget", str(BUDGET), "--script-shadow", "1.0", "--script-explain")
    flags += ("--scheduling-policy", "priority", "--api-key", KEY, "--enable-log-requests")
    with vllm_server("llava-next", *flags, VLLM_LOGGING_LEVEL="DEBUG") as server:
        yield server


@pytest.fixture
def counted(shadow_server, metric):
    """counted(name, **labels) -> by how much the metric has grown in this test."""
    before = {}

    def counted(name, **labels):
        key = (name, *labels.items())
        return metric(shadow_server, name, **labels) - before[key]

    for outcome in ("compared", "dropped", "failed"):
        key = ("script_shadow_requests_total", ("outcome", outcome))
        before[key] = metric(shadow_server, key[0], outcome=outcome)
    for name in ("agreements_total", "distance_count", "distance_sum"):
        before[(f"script_shadow_{name}",)] = metric(shadow_server, f"script_shadow_{name}")
    for name in ("visual_tokens_kept_total", "selection_seconds_count"):
        before[(f"script_{name}",)] = metric(shadow_server, f"script_{name}")
    return counted


def wait_for(count, what):
    deadline = time.monotonic() + 60
    while what() < count:
        assert time.monotonic() < deadline, f"{what()} of {count}"
        time.sleep(0.1)


def first_token(server, parts, script):
    """Probabilities of the 20 likeliest first tokens, by token."""
    client = openai.OpenAI(base_url=server.url, api_key=KEY, max_retries=0)
    reply = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": parts}],
        max_tokens=1,
        temperature=0,
        logprobs=True,
        top_logprobs=20,
        extra_body={"script": script, "return_tokens_as_token_ids": True},
    )
    (position,) = reply.choices[0].logprobs.content
    return position.token, {top.token: math.exp(top.logprob) for top in position.top_logprobs}


def test_what_is_measured_is_what_would_change(shadow_server, stock_server, picture, ask, counted):
    distances, agreements = [], 0
    for number in range(8):
        parts = [picture(168, 168, 300 + number), {"type": "text", "text": "What is shown?"}]
        answer = ask(shadow_server, parts)
        stock = ask(stock_server, parts)
        assert answer.token_ids == stock.token_ids and answer.prompt_tokens == stock.prompt_tokens
        assert answer.logprobs == pytest.approx(stock.logprobs, abs=1e-3)
        wait_for(number + 1, lambda: counted("script_shadow_requests_total", outcome="compared"))
        # What the shadow has kept, and nothing but the shadow has pruned.
        assert counted("script_visual_tokens_kept_total") == BUDGET * (number + 1)
        assert counted("script_selection_seconds_count") == number + 1
    kept = counted("script_visual_tokens_kept_total")
    for number in range(8):
        parts = [picture(168, 168, 300 + number), {"type": "text", "text": "What is shown?"}]
        (one, p), (other, q) = (
            first_token(shadow_server, parts, script)
            for script in ({"keep_ratio": 1.0}, {"visual_token_budget": BUDGET})
        )
        agreements += one == other
        apart = sum(abs(p.get(token, 0) - q.get(token, 0)) for token in p.keys() | q.keys())
        distances.append((apart + abs(sum(p.values()) - sum(q.values()))) / 2)
    assert counted("script_visual_tokens_kept_total") == 2 * kept  # these asked, so were pruned
    assert counted("script_shadow_requests_total", outcome="compared") == 8  # and not compared
    assert counted("script_shadow_agreements_total") == agreements
    assert counted("script_shadow_distance_sum") == pytest.approx(sum(distances), abs=1e-3)
    assert min(distances) > 0.01  # else this would show nothing


def test_what_would_stay_whole_is_no_different(shadow_server, picture, ask, counted):
    small = picture(20, 400, 310)  # 54 visual tokens
    ask(shadow_server, [small, {"type": "text", "text": "What is shown?"}])
    wait_for(1, lambda: counted("script_shadow_requests_total", outcome="compared"))
    assert counted("script_visual_tokens_kept_total") == 0
    assert counted("script_shadow_agreements_total") == 1
    assert counted("script_shadow_distance_sum") < 1e-4


def test_streams_are_compared_and_texts_are_not(shadow_server, picture, counted):
    client = openai.OpenAI(base_url=shadow_server.url, api_key=KEY, max_retries=0)
    text = {"type": "text", "text": "What is shown?"}
    for parts in ([text], [picture(168, 168, 320), text]):
        messages = [{"role": "user", "content": parts}]
        create = client.chat.completions.create
        stream = create(model="tiny", messages=messages, max_tokens=5, stream=True)
        assert len(list(stream)) > 1
    wait_for(1, lambda: counted("script_shadow_requests_total", outcome="compared"))
    for outcome in ("dropped", "failed"):
        assert counted("script_shadow_requests_total", outcome=outcome) == 0
    assert counted("script_shadow_distance_count") == 1


def test_a_copy_that_fails_is_counted(shadow_server, picture, ask, counted):
    """Of a picture known by its uuid there is no pruned copy for another question."""
    image = picture(168, 168, 325) | {"uuid": "shadow"}
    ask(shadow_server, [image, {"type": "text", "text": "What is shown?"}])
    wait_for(1, lambda: counted("script_shadow_requests_total", outcome="compared"))
    ask(shadow_server, [image | {"image_url": None}, {"type": "text", "text": "And why?"}])
    wait_for(1, lambda: counted("script_shadow_requests_total", outcome="failed"))
    assert counted("script_shadow_distance_count") == 1


def test_many_at_once_are_all_accounted_for(shadow_server, picture, ask, counted):
    from concurrent.futures import ThreadPoolExecutor

    def answer(seed):
        return ask(shadow_server, [picture(168, 168, seed), {"type": "text", "text": "What?"}])

    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(answer, range(330, 346)))) == 16

    def settled():
        return sum(
            counted("script_shadow_requests_total", outcome=outcome)
            for outcome in ("compared", "dropped", "failed")
        )

    wait_for(16, settled)  # how many are dropped is a matter of time: tests/server/test_shadow.py
    assert counted("script_shadow_requests_total", outcome="compared") > 0


def test_explain_says_what_was_done_to_the_answer(shadow_server, picture):
    parts = [picture(168, 168, 350), {"type": "text", "text": "What is shown?"}]
    body = {"model": "tiny", "messages": [{"role": "user", "content": parts}]}
    headers = {"Authorization": f"Bearer {KEY}"}
    url = f"{shadow_server.url}/script/explain"
    for script, whole in ({}, True), ({"visual_token_budget": BUDGET}, False):
        reply = httpx.post(url, json=body | {"script": script}, headers=headers, timeout=300)
        (image,) = reply.json()["images"]
        assert image["left_whole"] is whole


def test_texts_are_logged_of_answers_alone(shadow_server, picture, ask, counted):
    """With every log of vLLM's on, neither copies nor explanations add a text to it."""

    def question(word):
        return [picture(168, 168, 360), {"type": "text", "text": f"Is it a {word}?"}]

    ask(shadow_server, question("zebra"))
    wait_for(1, lambda: counted("script_shadow_requests_total", outcome="compared"))
    body = {"model": "tiny", "messages": [{"role": "user", "content": question("zyzzyva")}]}
    headers = {"Authorization": f"Bearer {KEY}"}
    for script in {"keep_ratio": 0.5}, {"query": "a zyzzyva"}, {"keep_ratio": 1.0}:
        url = f"{shadow_server.url}/script/explain"
        reply = httpx.post(url, json=body | {"script": script}, headers=headers, timeout=300)
        assert reply.status_code == 200
    # Of the answer vLLM logs the body and the prompt.
    assert shadow_server.log().count("Is it a zebra?") == 2
    assert "zyzzyva" not in shadow_server.log()


def test_our_routes_want_the_key(shadow_server):
    for headers in {}, {"Authorization": "Bearer other"}:
        reply = httpx.post(f"{shadow_server.url}/script/explain", json={}, headers=headers)
        assert reply.status_code == 401
        assert httpx.get(f"{shadow_server.url}/script/stats", headers=headers).status_code == 401
    headers = {"Authorization": f"Bearer {KEY}"}
    stats = httpx.get(f"{shadow_server.url}/script/stats", headers=headers)
    assert stats.json()["settings"]["shadow"] == 1.0
