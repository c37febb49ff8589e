"""Two data-parallel engines behind one address: what is asked of the server is true of both."""

import re
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

pytestmark = pytest.mark.slow

BUDGET = 60
QUESTION = {"type": "text", "text": "What is shown?"}
CACHE_GB = "0.02"


@pytest.fixture(scope="module")
def two_engines(vllm_server):
    """A server that compares every request, and answers unpruned."""
    flags = ("--visual-token-budget", str(BUDGET), "--script-shadow", "1.0", "--script-explain")
    flags += ("--data-parallel-size", "2", "--script-cache-gb", CACHE_GB)
    with vllm_server("llava-next", *flags) as server:
        yield server


@pytest.fixture
def answered(two_engines, metric):
    """answered() -> requests that each engine has answered in this test, shadow's among them."""

    def total():
        name = "vllm:request_success_total"
        return [metric(two_engines, name, engine=engine) for engine in "01"]

    before = total()
    return lambda: [now - then for now, then in zip(total(), before, strict=True)]


def explained(server, parts):
    body = {"model": "tiny", "messages": [{"role": "user", "content": parts}]}
    body["script"] = {"visual_token_budget": BUDGET}
    reply = httpx.post(f"{server.url}/script/explain", json=body, timeout=300)
    assert reply.status_code == 200, reply.text
    (image,) = reply.json()["images"]
    return image["kept_patches"]


def test_explanations_find_their_pictures_while_both_engines_answer(
    two_engines, pruning_server, picture, ask, answered
):
    parts = [[picture(168, 168, seed=800 + number), QUESTION] for number in range(4)]
    with ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(ask, two_engines, each) for each in parts * 4]
        shown = [explained(two_engines, each) for each in parts]
        for answer in answers:
            answer.result()
    assert shown == [explained(pruning_server, each) for each in parts]
    assert all(answered())


def test_shadow_measures_what_it_measures_with_one_engine(
    two_engines, vllm_server, picture, ask, metric, answered
):
    """Copies go to either engine; a distribution is that of the request, whoever computed it."""

    def measured(server):
        names = [f"script_shadow_{name}" for name in ("agreements_total", "distance_sum")]
        compared = "script_shadow_requests_total"
        start = metric(server, compared, outcome="compared")
        before = [metric(server, name) for name in names]
        for number in range(8):
            ask(server, [picture(168, 168, seed=810 + number), QUESTION])
            deadline = time.monotonic() + 60
            while metric(server, compared, outcome="compared") < start + number + 1:
                assert time.monotonic() < deadline, f"request {number} is not compared"
                time.sleep(0.1)
        return [metric(server, name) - then for name, then in zip(names, before, strict=True)]

    both = measured(two_engines)
    assert all(answered())
    flags = ("--visual-token-budget", str(BUDGET), "--script-shadow", "1.0")
    with vllm_server("llava-next", *flags) as server:
        assert both == pytest.approx(measured(server), abs=1e-3)
    assert both[1] > 0.01  # else this would show nothing


def test_figures_are_those_of_both_engines(two_engines, picture, ask, metric, answered):
    names = ["encoder_seconds_count", "selection_seconds_count", "cache_bytes"]

    def figures():
        return [
            metric(two_engines, f"script_{name}", **labels)
            for name, labels in zip(names, ({}, {}, {"cache": "features"}), strict=True)
        ]

    script, before = {"visual_token_budget": BUDGET}, figures()
    ask(two_engines, [picture(168, 168, seed=830), QUESTION], script)
    one = [now - then for now, then in zip(figures(), before, strict=True)]
    assert one[:2] == [1, 1] and one[2] > 0
    with ThreadPoolExecutor(6) as pool:
        pictures = [picture(168, 168, seed=831 + number) for number in range(6)]
        list(pool.map(lambda image: ask(two_engines, [image, QUESTION], script), pictures))
    assert [now - then for now, then in zip(figures(), before, strict=True)] == [7 * n for n in one]
    assert all(answered())


def test_every_worker_says_what_it_keeps(two_engines):
    said = rf"pid=(\d+)\) INFO .*Script keeps features of images in {CACHE_GB} GiB of this worker"
    assert len(set(re.findall(said, two_engines.log()))) == 2
