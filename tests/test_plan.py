"""Plans, their canonical bytes, and identifiers."""

import dataclasses
import itertools
import re
from dataclasses import replace

import pytest

from vllm_script.config import ScriptConfig
from vllm_script.explain.explained import Explanation
from vllm_script.plan import Plan, identifier, image_key, make_plan

with_explain_id = Explanation().mark


def plan(query=(((5, 6),),), clip_digest=None, **settings):
    config = ScriptConfig.from_dict({"relevance": "embedding"} | settings)
    return make_plan(replace(config, clip_digest=clip_digest), query)


DIFFERENT = [
    plan(),
    plan(query=(((5, 7),),)),
    plan(query=(((5,), (6,)),)),  # one question in two windows
    plan(query=(((5,),), ((6,),))),
    plan(query=()),
    plan(keep_ratio=0.5),
    plan(visual_token_budget=64),
    plan(mode="cdpruner"),
    plan(mode="gsp"),
    plan(mode="coverage"),
    plan(mode="mmr"),
    plan(mode="mmr", geometry="centered"),
    plan(mode="divprune", geometry="centered"),
    plan(mode="random"),
    plan(mode="random", seed=1),
    plan(mode="uniform"),
    plan(tau=0.2),
    plan(tau_relative=False),
    plan(gamma=2.0),
    plan(pool_ratio=0.75),
    plan(geometry="centered"),
    plan(mode="gsp", gamma=2.0),
    plan(relevance="clip", clip_digest="a"),
    plan(relevance="clip", clip_digest="b"),
    plan(tower_keep=0.5, tower_layer=0.25),
    plan(tower_keep=0.75, tower_layer=0.25),
    plan(tower_keep=0.5, tower_layer=0.5),
    with_explain_id(plan()),
    with_explain_id(plan()),
]

EQUAL = {
    "a mode that reads no query": (plan(mode="gsp"), plan(mode="gsp", query=(((9,),),))),
    "no relevance": (plan(relevance="none"), plan(relevance="none", query=(((9,),),))),
    "no relevance or no query": (plan(relevance="none"), plan(query=())),
    "a parameter the mode does not read": (plan(mode="cdpruner"), plan(mode="cdpruner", tau=0.9)),
    "a geometry the mode does not read": (
        plan(mode="gsp"),
        plan(mode="gsp", geometry="centered"),
    ),
    "a CLIP that is not asked": (plan(), plan(clip_model="a", clip_digest="a")),
    "one CLIP, installed elsewhere": (
        plan(relevance="clip", clip_model="/a", clip_digest="1"),
        plan(relevance="clip", clip_model="/b", clip_digest="1"),
    ),
    "bounds on requests": (plan(), plan(max_keep_ratio=0.5)),
    "sizes of caches": (plan(), plan(cache_gb=0)),
    "kernels": (plan(kernels="triton"), plan(kernels="torch")),
    "policies of conversations, by which queries are made": (
        plan(),
        plan(conversation="all", system_prompt=True, answer_phrases=["Be brief"]),
    ),
    "routes of the server": (plan(), plan(explain=True)),
    "a layer of a tower that is whole": (plan(), plan(tower_layer=0.5)),
    "1 and 1.0": (plan(keep_ratio=1), plan(keep_ratio=1.0)),
}


@pytest.mark.parametrize("one, other", list(itertools.combinations(DIFFERENT, 2)))
def test_different_plans_never_share(one, other):
    assert identifier("h", one) != identifier("h", other)


@pytest.mark.parametrize("one, other", EQUAL.values(), ids=EQUAL)
def test_equal_plans_share(one, other):
    assert identifier("h", one) == identifier("h", other)


@pytest.mark.parametrize("one", DIFFERENT)
def test_the_worker_reads_what_is_hashed(one):
    assert Plan.decode(one.encode()) == one


def test_every_field_is_hashed():
    thinned = plan(tower_keep=0.5, tower_layer=0.25)
    for field in dataclasses.fields(Plan):
        assert f'"{field.name}"'.encode() in with_explain_id(thinned).encode()


def test_a_plan_that_nobody_explains_of_a_whole_tower_is_as_it_was():
    """What is cached elsewhere under its bytes stays valid."""
    assert plan(mode="cdpruner").encode() == (
        b'{"clip_digest":null,"keep_ratio":0.11,"mode":"cdpruner","params":{"gamma":1.0,'
        b'"geometry":"raw","pool_ratio":0.25,"seed":0,"tau":0.1,"tau_relative":true},"query":[[[5,6]]],'
        b'"relevance":"embedding","version":6,"visual_token_budget":null}'
    )
    assert with_explain_id(None) is None


@pytest.mark.parametrize("stock", ["h", "", "0" * 64, "a client's uuid / with \ud800"])
@pytest.mark.parametrize("one", DIFFERENT)
def test_identifiers_are_hexadecimal_digits(stock, one):
    assert re.fullmatch("[0-9a-f]{64}", identifier(stock, one))


def test_every_digit_depends_on_image_and_plan():
    """Some that read identifiers take the last four digits."""
    of_images = {identifier(f"{number}", plan())[-4:] for number in range(64)}
    of_plans = {identifier("h", plan(query=(((number,),),)))[-4:] for number in range(64)}
    assert len(of_images) > 60 and len(of_plans) > 60


def test_an_image_that_is_left_whole_has_stocks_identifier():
    assert identifier("any text", None) == "any text"


def test_a_uuid_that_is_hardly_text():
    assert image_key("\ud800", 1, 1) != image_key("?", 1, 1)
