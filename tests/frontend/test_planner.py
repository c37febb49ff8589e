"""From what a request asks to an item's plan, with the server's bound on keep ratios."""

import pytest
import torch
from vllm.exceptions import VLLMValidationError

from vllm_script.config import ScriptConfig
from vllm_script.frontend.planner import num_rows, plan_item
from vllm_script.frontend.request import ScriptRequest
from vllm_script.layout import Layout

LAYOUT = Layout(torch.arange(100))


def planned(server, overrides=None, layout=LAYOUT):
    config, _ = ScriptConfig.from_dict({"relevance": "none"} | server).for_request(overrides)
    return plan_item(ScriptRequest(overrides, config=config), (), layout, "image 0")


@pytest.mark.parametrize(
    ("server", "overrides", "rows"),
    [
        ({}, None, 11),
        ({}, {"keep_ratio": 0.5}, 50),
        ({"max_keep_ratio": 0.5}, {"visual_token_budget": 50}, 50),
        ({"max_keep_ratio": 0.5, "visual_token_budget": 90}, None, 50),  # nobody asked for 90
    ],
)
def test_rows_that_stay(server, overrides, rows):
    assert num_rows(planned(server, overrides), LAYOUT) == rows


@pytest.mark.parametrize("overrides", [{"keep_ratio": 1.0}, {"visual_token_budget": 100}])
def test_left_whole(overrides):
    assert planned({}, overrides) is None


@pytest.mark.parametrize(
    "policy, texts", [("turn", ["a"]), ("latest", ["c"]), ("all", ["a", "b", "c"])]
)
def test_a_request_chooses_the_questions_of_a_conversation(policy, texts):
    config, _ = ScriptConfig().for_request({"conversation": policy})
    request = ScriptRequest(queries={"image": [("a", "b", "c")]}, config=config)
    assert request.queries_of("image", 1) == [tuple(texts)]


@pytest.mark.parametrize("policy", ["turn", "latest", "all"])
def test_a_text_that_the_client_chose_conditions_every_item(policy):
    config, query = ScriptConfig().for_request({"conversation": policy, "query": "a bird"})
    request = ScriptRequest(queries=query, config=config)
    assert request.queries_of("image", 2) == [("a bird",)] * 2


def test_more_than_the_server_allows():
    with pytest.raises(VLLMValidationError, match="image 0 would keep 51 .* allows 50 of its 100"):
        planned({"max_keep_ratio": 0.5}, {"visual_token_budget": 51})


def test_an_item_whose_size_is_not_known_is_planned_where_it_is():
    assert planned({}, layout=None).keep_ratio == 0.11
    assert planned({}, {"keep_ratio": 1.0}, layout=None) is None
