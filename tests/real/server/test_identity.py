"""What is cached under an image's identifier is what its plan said: no more, no less is shared."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

BLOCK = 32
QUESTIONS = ["What is shown?", "How many people are there?", "Read the sign.", "Where is the car?"]
LONG_TEXT = "Describe the image in detail, please. " * 12  # more than two blocks


def turn(*parts):
    return {"role": "user", "content": [p if isinstance(p, dict) else text(p) for p in parts]}


def text(words):
    return {"type": "text", "text": words}


def reply(words):
    return {"role": "assistant", "content": words}


def steps(answer):
    return list(zip(answer.token_ids, answer.logprobs, strict=True))


def random_request(rng, picture):
    image = picture(168, 168, seed=rng.randrange(2))
    script = {
        "keep_ratio": rng.choice([0.11, 0.3, 1.0]),
        "mode": rng.choice(["script", "gsp", "cdpruner", "divprune", "uniform", "random"]),
        "relevance": rng.choice(["clip", "embedding"]),
    }
    return [image, text(rng.choice(QUESTIONS[:2]))], script


def test_200_requests_answer_as_without_caches(
    pruning_server, uncached_server, picture, ask, metric
):
    rng = random.Random(1)
    requests = [random_request(rng, picture) for _ in range(200)]
    distinct = list({repr(request): request for request in requests}.values())
    assert 50 < len(distinct) < 130, "repeats are what fills and hits the caches"

    def answers(server, requests):
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(lambda request: ask(server, *request, max_tokens=4), requests))

    truth = dict(zip(map(repr, distinct), answers(uncached_server, distinct), strict=True))
    hits = metric(pruning_server, "vllm:prefix_cache_hits_total")
    for request, answer in zip(requests, answers(pruning_server, requests), strict=True):
        expected = truth[repr(request)]
        assert answer.prompt_tokens == expected.prompt_tokens
        for ours, theirs in zip(steps(answer), steps(expected), strict=True):
            assert ours[1] == pytest.approx(theirs[1], abs=1e-3)
            if ours[0] != theirs[0]:  # a tie to within 1e-3: what follows has another prefix
                break
    assert metric(pruning_server, "vllm:prefix_cache_hits_total") > hits
    assert metric(uncached_server, "vllm:prefix_cache_hits_total") == 0


def test_same_question_hits_other_question_stops_before_the_image(pruning_server, picture, ask):
    before = [turn(LONG_TEXT), reply("A temple.")]
    image = picture(168, 168, seed=100)
    text_only = ask(pruning_server, before, max_tokens=1)

    first = ask(pruning_server, [*before, turn(image, QUESTIONS[0] + LONG_TEXT)])
    again = ask(pruning_server, [*before, turn(image, QUESTIONS[0] + LONG_TEXT)])
    other = ask(pruning_server, [*before, turn(image, QUESTIONS[1] + LONG_TEXT)])
    assert again.cached_tokens == (first.prompt_tokens - 1) // BLOCK * BLOCK
    # The prompt up to the image is the text-only one without its closing "ASSISTANT:".
    image_offset = text_only.prompt_tokens
    assert 0 < other.cached_tokens <= image_offset
    assert other.cached_tokens > image_offset - BLOCK - 8


@pytest.mark.parametrize(
    "script", [{"mode": "uniform"}, {"mode": "gsp"}, {"relevance": "none"}, {"keep_ratio": 1.0}]
)
def test_query_free_settings_share_across_questions(script, pruning_server, picture, ask):
    image = picture(168, 168, seed=200)
    script = {"keep_ratio": 0.6} | script
    ask(pruning_server, [image, text(QUESTIONS[0])], script)
    other = ask(pruning_server, [image, text(QUESTIONS[1])], script)
    assert other.cached_tokens >= 3 * BLOCK  # 115 or more tokens of the image, and a few of text


def test_query_override_conditions_instead_of_the_text(pruning_server, picture, ask):
    image = picture(168, 168, seed=300)
    script = {"keep_ratio": 0.6, "query": "the temple"}
    ask(pruning_server, [image, text(QUESTIONS[0])], script)
    assert ask(pruning_server, [image, text(QUESTIONS[1])], script).cached_tokens >= 3 * BLOCK
    script["query"] = "the car"
    assert ask(pruning_server, [image, text(QUESTIONS[0])], script).cached_tokens == 0


def test_second_turn_keeps_the_prefix(pruning_server, picture, ask):
    """Where it is asked for; by default a new question keeps what comes before the image."""
    first = [turn(picture(168, 168, seed=400), QUESTIONS[0] + LONG_TEXT)]
    own = {"conversation": "turn"}
    one = ask(pruning_server, first, own)
    history = [*first, reply("A temple.")]
    whole_blocks = (one.prompt_tokens - 8) // BLOCK * BLOCK
    text_turn = ask(pruning_server, [*history, turn(QUESTIONS[1])], own)
    assert text_turn.cached_tokens >= whole_blocks
    other = [*history, turn(picture(100, 60, seed=401), QUESTIONS[2])]
    image_turn = ask(pruning_server, other, own)
    assert image_turn.cached_tokens >= whole_blocks
    assert ask(pruning_server, [*history, turn(QUESTIONS[3])]).cached_tokens < BLOCK


def test_the_question_changes_the_answer(pruning_server, picture, ask):
    """Same image, same text after it, other conditioning text: other tokens are kept."""
    image = picture(168, 168, seed=500)
    answers = {
        ask(pruning_server, [image, text("Why?")], {"query": query}).logprobs for query in QUESTIONS
    }
    assert len(answers) == len(QUESTIONS)


@pytest.mark.parametrize("name", ["stock_server", "pruning_server"])
def test_a_salt_sets_prompts_apart_and_images_not(name, request, picture, ask, metric):
    """As in vLLM, whose caches of images know no salt either."""
    server = request.getfixturevalue(name)
    parts = [picture(168, 168, seed=600), text(QUESTIONS[0] + LONG_TEXT)]
    known = metric(server, "vllm:mm_cache_hits_total")
    first = ask(server, parts, cache_salt="one")
    again = ask(server, parts, cache_salt="one")
    assert again.cached_tokens == (first.prompt_tokens - 1) // BLOCK * BLOCK
    for salt in {"cache_salt": "two"}, {}:
        other = ask(server, parts, **salt)
        assert other.cached_tokens == 0
        assert other.logprobs == pytest.approx(first.logprobs, abs=1e-3)
    assert metric(server, "vllm:mm_cache_hits_total") == known + 3


def test_what_is_known_of_an_image_is_known_under_every_salt(pruning_server, picture, ask, metric):
    image = picture(168, 168, seed=601)

    def found():
        return [
            metric(pruning_server, "script_cache_hits_total", cache=cache)
            for cache in ("pixels", "features")
        ]

    ask(pruning_server, [image, text(QUESTIONS[0])], cache_salt="one")
    before = found()
    answer = ask(pruning_server, [image, text(QUESTIONS[1])], cache_salt="two")
    assert found() == [hits + 1 for hits in before]
    alone = ask(pruning_server, [image, text(QUESTIONS[1])], cache_salt="three")
    assert answer.logprobs == pytest.approx(alone.logprobs, abs=1e-3)
    assert (answer.cached_tokens, alone.cached_tokens) == (0, 0)
