"""Settings: defaults, ranges, what a request may change, what the messages say."""

import dataclasses
import math
from types import SimpleNamespace

import pytest

from vllm_script.config import (
    AMOUNTS,
    DEFAULT_KEEP_RATIO,
    QUERY,
    REQUEST_KEYS,
    SETTINGS,
    ScriptConfig,
)
from vllm_script.pruning import PruningParams
from vllm_script.setting import SettingError


def test_every_field_is_a_setting():
    others = ("params", "clip_digest")
    fields = [f.name for f in dataclasses.fields(ScriptConfig) if f.name not in others]
    fields += [field.name for field in dataclasses.fields(PruningParams)]
    assert [each.key for each in SETTINGS] == fields
    for each in (*SETTINGS, QUERY):
        assert each.meaning.endswith(".") and "|" not in each.description
        assert not each.meaning[:2].isupper()  # errors go on with it
        assert each.default is None or each.default in each.values


@pytest.mark.parametrize("each", SETTINGS, ids=lambda each: each.key)
def test_every_setting_is_checked(each):
    """By its own description, with its name."""
    for raw in {each.key: object()}, {each.key: [each.default]}:
        with pytest.raises(SettingError, match=f"^{each.key} must be .*got ") as error:
            ScriptConfig.from_dict(raw)
        assert error.value.setting == each.key


def test_what_a_request_may_change():
    own = "mode", "relevance", "conversation", "tower_keep", "geometry", "query"
    assert (*AMOUNTS, *own) == REQUEST_KEYS
    server = ScriptConfig.from_dict({"tau": 0.2, "geometry": "raw"})
    changed, _ = server.for_request({"geometry": "centered", "mode": "divprune"})
    assert changed.params == PruningParams(tau=0.2, geometry="centered")
    assert changed.mode == "divprune" and server.params == PruningParams(tau=0.2)


def test_a_request_may_ask_for_more_of_the_tower_and_not_for_less():
    server = ScriptConfig.from_dict({"tower_keep": 0.5, "tower_layer": 0.25})
    for asked in (0.5, 0.75, 1.0):
        assert server.for_request({"tower_keep": asked})[0].tower_keep == asked
    for asked in (0.4, 1.5, "all"):
        with pytest.raises(SettingError, match=r"tower_keep must be a number in \[0.5, 1\], got"):
            server.for_request({"tower_keep": asked})
    with pytest.raises(SettingError, match="unknown key 'tower_layer'"):
        server.for_request({"tower_layer": 0.5})


def test_of_a_model():
    config = ScriptConfig.from_dict({"mode": "gsp", "tau": 0.2, "shadow": 0.5})
    with_clip = dataclasses.replace(config, clip_model="/clip", clip_digest="0" * 64)
    for one in config, with_clip:
        assert ScriptConfig.of(SimpleNamespace(vllm_script=one.to_dict())) == one


def test_defaults():
    config = ScriptConfig.from_dict({})
    assert config.keep_ratio == DEFAULT_KEEP_RATIO == 0.11
    assert (config.mode, config.relevance) == ("script", "auto")
    assert config.params == PruningParams()


def test_round_trip():
    raw = {"visual_token_budget": 64, "mode": "gsp", "relevance": "none", "tau": 0.2, "gamma": 2.0}
    config = ScriptConfig.from_dict(raw)
    assert ScriptConfig.from_dict(config.to_dict()) == config
    assert config.params == PruningParams(tau=0.2, gamma=2.0)


@pytest.mark.parametrize(
    "raw, words",
    [
        ({"keep_ratio": 0}, ["keep_ratio", "[0.01, 1]", "got 0"]),
        ({"keep_ratio": -1}, ["keep_ratio", "got -1"]),
        ({"keep_ratio": 1.5}, ["keep_ratio", "[0.01, 1]", "got 1.5"]),
        ({"keep_ratio": math.nan}, ["keep_ratio", "got nan"]),
        ({"keep_ratio": "x"}, ["keep_ratio", "got 'x'"]),
        ({"keep_ratio": True}, ["keep_ratio", "got True"]),
        ({"keep_ratio": 0.5, "visual_token_budget": 5}, ["keep_ratio", "not both"]),
        ({"visual_token_budget": 0}, ["visual_token_budget", "[1, 65536]", "got 0"]),
        ({"visual_token_budget": 10**9}, ["visual_token_budget", "65536", "got 1000000000"]),
        ({"visual_token_budget": 2.0}, ["visual_token_budget", "integer", "got 2.0"]),
        ({"mode": "best"}, ["mode", "cdpruner", "got 'best'"]),
        ({"mode": ["script"]}, ["mode", "got ['script']"]),
        ({"relevance": "magic"}, ["relevance", "embedding", "got 'magic'"]),
        ({"pruning_ratio": 0.5}, ["unknown key 'pruning_ratio'", "keep_ratio", "tau"]),
        ({"pool_ratio": 2}, ["pool_ratio", "2"]),
        ({"cache_gb": -1}, ["cache_gb", "[0, 1024]", "got -1", "0 keeps none"]),
        ({"cache_gb": math.inf}, ["cache_gb", "[0, 1024]", "got inf"]),
        ({"cache_gb": math.nan}, ["cache_gb", "[0, 1024]", "got nan"]),
        ({"cache_gb": 10**400}, ["cache_gb", "got 1000"]),
        ({"cache_gb": "1 GiB"}, ["cache_gb", "got '1 GiB'"]),
        ({"kernels": "cuda"}, ["kernels", "auto, triton, torch", "got 'cuda'", "computes selec"]),
        ({"explain": 1}, ["explain", "true or false", "got 1"]),
        ({"shadow": 0}, ["shadow", "(0, 1]", "got 0"]),
        ({"shadow": True}, ["shadow", "got True"]),
        ({"clip_model": 3}, ["clip_model", "folder or repository", "got 3"]),
        ({"tau": 1.5}, ["tau", "[-1, 1]", "got 1.5"]),
        ({"seed": 0.5}, ["seed", "an integer in [0, 4294967295]", "got 0.5"]),
        ({"min_keep_ratio": 0}, ["min_keep_ratio", "(0, 1]", "got 0"]),
        ({"min_keep_ratio": 0.5, "max_keep_ratio": 0.4}, ["max_keep_ratio", "[0.5, 1]"]),
        ({"shadow": 0.5, "max_keep_ratio": 0.5}, ["shadow", "max_keep_ratio 0.5"]),
        ([0.5], ["dictionary", "[0.5]"]),
        ("x" * 1000, ["dictionary", "..."]),
    ],
)
def test_mistakes(raw, words):
    with pytest.raises(SettingError) as error:
        ScriptConfig.from_dict(raw)
    for word in words:
        assert word in str(error.value)
    assert len(str(error.value)) < 400


SERVER = ScriptConfig(keep_ratio=0.25, min_keep_ratio=0.1, max_keep_ratio=0.5)


@pytest.mark.parametrize(
    "raw, expected",
    [
        (None, {"keep_ratio": 0.25}),
        ({}, {"keep_ratio": 0.25}),
        ({"keep_ratio": 0.1}, {"keep_ratio": 0.1}),
        ({"keep_ratio": None, "mode": "uniform"}, {"keep_ratio": 0.25, "mode": "uniform"}),
        ({"visual_token_budget": 9}, {"keep_ratio": None, "visual_token_budget": 9}),
    ],
)
def test_for_request(raw, expected):
    config, query = SERVER.for_request(raw)
    assert query is None
    assert {name: getattr(config, name) for name in expected} == expected


def test_shadow_leaves_whole_what_does_not_ask():
    config = ScriptConfig(visual_token_budget=64, mode="gsp", shadow=0.5)
    for raw in None, {}:
        changed = config.for_request(raw)[0]
        assert (changed.keep_ratio, changed.visual_token_budget) == (1.0, None)
    assert config.for_request({"mode": "uniform"})[0].visual_token_budget == 64
    for ours in config, ScriptConfig(keep_ratio=0.25, shadow=0.5):
        assert ours.for_request(ours.amount)[0] == ours


def test_a_ratio_replaces_the_servers_budget():
    config, _ = ScriptConfig(visual_token_budget=64).for_request({"keep_ratio": 0.5})
    assert (config.keep_ratio, config.visual_token_budget) == (0.5, None)


@pytest.mark.parametrize(
    "bounds, default", [({"min_keep_ratio": 0.2}, 0.2), ({"max_keep_ratio": 0.1}, 0.1)]
)
def test_the_default_ratio_respects_the_bounds(bounds, default):
    assert ScriptConfig.from_dict(bounds).keep_ratio == default


def test_relevance_of_a_request():
    with_clip = ScriptConfig(relevance="none", clip_model="some/clip")
    without = ScriptConfig(relevance="none")
    assert with_clip.for_request({"relevance": "auto"})[0].relevance == "clip"
    assert without.for_request({"relevance": "auto"})[0].relevance == "none"
    assert with_clip.for_request({"relevance": "clip"})[0].relevance == "clip"
    with pytest.raises(ValueError, match="not available .* --script-clip-model"):
        without.for_request({"relevance": "clip"})


def test_what_relevance_a_request_can_have_is_what_the_server_was_started_with():
    without = ScriptConfig(relevance="clip", clip_model="some/clip")
    with pytest.raises(ValueError) as error:
        without.for_request({"relevance": "lm-attention"})
    assert str(error.value) == (
        "relevance lm-attention is not available on this server, clip, embedding and none are; it "
        "needs a start with --script-relevance lm-attention"
    )
    started = ScriptConfig(relevance="lm-attention")
    assert started.for_request({"mode": "cdpruner"})[0].relevance == "lm-attention"
    for source in "lm-attention", "embedding", "none":
        assert started.for_request({"relevance": source})[0].relevance == source
    with pytest.raises(ValueError, match="embedding, lm-attention and none are"):
        started.for_request({"relevance": "clip"})


def test_query_of_a_request():
    assert SERVER.for_request({"query": "red car"})[1] == "red car"


def test_a_query_that_would_have_no_say_is_refused():
    without = ScriptConfig(relevance="none")
    for raw in {"query": "red car"}, {"query": "red car", "relevance": "auto"}:
        with pytest.raises(ValueError, match="no say with relevance none.* 'embedding'"):
            without.for_request(raw)
    config, query = without.for_request({"query": "red car", "relevance": "embedding"})
    assert (config.relevance, query) == ("embedding", "red car")
    for raw in {"mode": "uniform"}, {"keep_ratio": 1.0}:
        assert without.for_request({"query": "red car"} | raw)[1] == "red car"


@pytest.mark.parametrize(
    "raw, words",
    [
        ({"keep_ratio": 0.05}, ["[0.1, 0.5]", "0.05"]),
        ({"keep_ratio": 1.0}, ["[0.1, 0.5]", "got 1.0"]),
        ({"keep_ratio": 0.2, "visual_token_budget": 9}, ["not both"]),
        ({"tau": 0.2}, ["unknown key 'tau'"]),
        ({"max_keep_ratio": 1.0}, ["unknown key 'max_keep_ratio'"]),
        ({"cache_gb": 0}, ["unknown key 'cache_gb'"]),
        ({"kernels": "torch"}, ["unknown key 'kernels'"]),
        ({"query": ""}, ["query", "not empty"]),
        ({"query": " \n"}, ["query", "not empty"]),
        ({"query": 3}, ["query", "got 3"]),
        ({"query": "a \ud83d"}, ["query", "surrogate", "whole characters"]),
        ({"query": "x" * 100_000}, ["query", "8192", "got 100000", "shorten"]),
    ],
)
def test_mistakes_of_a_request(raw, words):
    with pytest.raises(SettingError) as error:
        SERVER.for_request(raw)
    for word in words:
        assert word in str(error.value)
