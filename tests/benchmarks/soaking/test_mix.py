"""What is asked: everything there is, alike for a seed, with the counts that must come back."""

import json
import random

import pytest

from vllm_script.benchmarks.serving.expected import Expected
from vllm_script.benchmarks.soaking.mistakes import SCRIPT_MISTAKES
from vllm_script.benchmarks.soaking.mix import (
    HANG_UP_BUDGET,
    KINDS,
    LARGE_SCRIPTS,
    MAX_IMAGES,
    READING_SCRIPTS,
    SCRIPTS,
    Mix,
)
from vllm_script.benchmarks.soaking.pictures import any_picture
from vllm_script.config import ScriptConfig
from vllm_script.plan import make_plan
from vllm_script.server.aliases import repository_of
from vllm_script.setting import SettingError

CONFIG = ScriptConfig(clip_model="its own")


@pytest.fixture(scope="module")
def mix():
    """What is asked of script-demo with 2048 tokens of context."""
    return Mix(Expected(repository_of("script-demo")), "soak", 0.11, 2048)


def drawn(mix, seed, count):
    rng = random.Random(seed)
    return [request for _ in range(count) for request in mix.draw(rng)]


@pytest.fixture(scope="module")
def requests(mix):
    return drawn(mix, 0, 300)


def test_a_seed_says_what_is_asked(mix):
    first, same, other = (drawn(mix, seed, 20) for seed in (1, 1, 2))
    assert first == same
    assert [request.body for request in first] != [request.body for request in other]


def test_every_kind_comes_and_can_be_sent(requests):
    assert len({request.kind for request in requests}) == len(KINDS) + 1  # a uuid comes in two
    for request in requests:
        assert json.dumps(request.body).isascii()
        assert (request.prompt_tokens is not None) == (request.status == 200)
        if request.status == 200:
            assert request.prompt_tokens + request.body.get("max_tokens", 8) < 2048


def test_counts_are_those_of_the_readme(mix):
    pruned = {request.pruned for request in (mix.hang_up(random.Random(n))[0] for n in range(9))}
    assert pruned == {((1008, HANG_UP_BUDGET),)}
    rng = random.Random(0)
    for _ in range(20):
        (request,) = mix.gallery(rng)
        ratio = request.body.get("script", {"keep_ratio": 0.11})["keep_ratio"]
        for before, kept in request.pruned:
            assert kept == int(ratio * before + 0.5)


def test_only_hang_ups_have_a_query_and_all_count_alike(requests):
    accepted = [r for r in requests if r.status == 200]
    asking = [r for r in accepted if "query" in (r.body.get("script") or {})]
    assert asking == [r for r in accepted if r.hang_up is not None]
    assert len({(r.pruned, r.prompt_tokens) for r in asking}) == 1
    assert len({r.body["script"]["query"] for r in asking}) > len(asking) // 2


def test_a_uuid_is_shared_by_sizes_and_never_with_a_question(mix):
    rng = random.Random(6)
    contents = [mix.shared_uuid(rng)[0].body["messages"][0]["content"] for _ in range(60)]
    names = [content[0]["uuid"] for content in contents]
    sizes = {
        (name, len(content[0]["image_url"]["url"]) // 1000)
        for name, content in zip(names, contents, strict=True)
    }
    assert len(sizes) > 2 * len(set(names))
    assert len({content[1]["text"] for content in contents}) == len(contents)
    for script in READING_SCRIPTS:
        config, _ = CONFIG.for_request(script)
        assert make_plan(config, (((1,),),)).query == (((1,),),)


def test_pictures_of_a_request_differ(mix):
    rng = random.Random(4)
    for _ in range(20):
        (request,) = mix.gallery(rng)
        parts = request.body["messages"][0]["content"]
        urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        assert len(set(urls)) == len(urls) == len(request.pruned) <= MAX_IMAGES


def test_pictures_come_again():
    rng = random.Random(5)
    urls = [any_picture(rng, 112).url for _ in range(100)]
    assert 40 < len(set(urls)) < 90


@pytest.mark.parametrize(("script", "reason"), SCRIPT_MISTAKES)
def test_mistakes_are_mistakes(script, reason):
    with pytest.raises(SettingError) as error:
        CONFIG.for_request(script)
    assert error.value.setting == reason


def test_good_settings_are_good():
    for script in SCRIPTS + LARGE_SCRIPTS:
        CONFIG.for_request(script)
