"""Plans, their canonical bytes, and identifiers."""

import dataclasses
import itertools

import pytest

from vllm_script.config import ScriptConfig
from vllm_script.explain.explained import Explanation
from vllm_script.plan import Plan, identifier, image_key, make_plan

with_explain_id = Explanation().mark


def plan(query=((5, 6),), **settings):
    return make_plan(ScriptConfig.from_dict({"relevance": "embedding"} | settings), query)


DIFFERENT = [
    plan(),
    plan(query=((5, 7),)),
    plan(query=((5,), (6,))),
    plan(query=()),
    plan(keep_ratio=0.5),
    plan(visual_token_budget=64),
    plan(mode="cdpruner"),
    plan(mode="gsp"),
    plan(mode="random"),
    plan(mode="random", seed=1),
    plan(mode="uniform"),
    plan(tau=0.2),
    plan(tau_relative=False),
    plan(gamma=2.0),
    plan(pool_ratio=0.25),
    plan(mode="gsp", gamma=2.0),
    plan(relevance="clip", clip_model="a"),
    plan(relevance="clip", clip_model="b"),
    with_explain_id(plan()),
    with_explain_id(plan()),
]

EQUAL = {
    "a mode that reads no query": (plan(mode="gsp"), plan(mode="gsp", query=((9,),))),
    "no relevance": (plan(relevance="none"), plan(relevance="none", query=((9,),))),
    "no relevance or no query": (plan(relevance="none"), plan(query=())),
    "a parameter the mode does not read": (plan(mode="cdpruner"), plan(mode="cdpruner", tau=0.9)),
    "a CLIP that is not asked": (plan(), plan(clip_model="a")),
    "bounds on requests": (plan(), plan(max_keep_ratio=0.5)),
    "sizes of caches": (plan(), plan(cache_gb=0)),
    "routes of the server": (plan(), plan(explain=True)),
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
    for field in dataclasses.fields(Plan):
        assert f'"{field.name}"'.encode() in with_explain_id(plan()).encode()


def test_a_plan_that_nobody_explains_is_as_it_was():
    """What is cached elsewhere under its bytes stays valid."""
    assert plan(mode="cdpruner").encode() == (
        b'{"clip_model":null,"keep_ratio":0.11,"mode":"cdpruner","params":{"gamma":1.0,'
        b'"pool_ratio":0.5,"seed":0,"tau":0.1,"tau_relative":true},"query":[[5,6]],'
        b'"relevance":"embedding","version":3,"visual_token_budget":null}'
    )
    assert with_explain_id(None) is None


def test_images():
    assert identifier("h", None) == "h"
    assert identifier("h", plan()) != identifier("g", plan())
    assert identifier("h", plan()).startswith("h-")


def test_a_uuid_that_is_hardly_text():
    assert image_key("\ud800", 1, 1) != image_key("?", 1, 1)
