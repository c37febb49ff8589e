"""Which text conditions which image."""

import pytest

from vllm_script.config import MAX_QUERY_CHARS
from vllm_script.frontend.queries import (
    MARKS,
    Scaffolding,
    item_queries,
    learn_scaffolding,
    materialize,
    raw_item_queries,
)

IMAGE = {"type": "image_url", "image_url": {"url": "x"}}


def text(words):
    return {"type": "text", "text": words}


def user(*parts):
    return {"role": "user", "content": list(parts)}


def assistant(words):
    return {"role": "assistant", "content": words}


@pytest.mark.parametrize(
    "messages, queries",
    [
        pytest.param([user(IMAGE, text("a"))], ["a"], id="one image"),
        pytest.param([user(text("a"), IMAGE, text("b"))], ["a\nb"], id="text around it"),
        pytest.param([user(IMAGE, text("a"), IMAGE)], ["a", "a"], id="two images"),
        pytest.param([user(text("a"))], [], id="no image"),
        pytest.param([user(IMAGE)], [""], id="no text"),
        pytest.param([user(IMAGE), user(text("a"))], ["a"], id="next message of the run"),
        pytest.param(
            [user(IMAGE, text("a")), assistant("x"), user(text("b"))], ["a"], id="later turn"
        ),
        pytest.param(
            [user(IMAGE, text("a")), assistant("x"), user(IMAGE, text("b"))],
            ["a", "b"],
            id="image in each turn",
        ),
        pytest.param(
            [{"role": "system", "content": "be brief"}, user(IMAGE, text("a"))],
            ["a"],
            id="system prompt",
        ),
        pytest.param(
            [user(text("a")), {"role": "tool", "content": [IMAGE, text("t")]}],
            ["a"],
            id="image in tool output",
        ),
        pytest.param([user("plain", IMAGE)], ["plain"], id="part that is a string"),
        pytest.param(
            [user({"type": "input_image", "image_url": "x"}, {"type": "input_text", "text": "a"})],
            ["a"],
            id="part names of the responses API",
        ),
        pytest.param(
            [user({"image_url": {"url": "x"}}, text("a"))], ["a"], id="part without a type"
        ),
        pytest.param(
            [user({"type": "image", "image_url": None, "uuid": "u"}, text("a"))],
            ["a"],
            id="reference by uuid",
        ),
        pytest.param(
            [{"role": "user", "content": "a"}, user(IMAGE)], ["a"], id="content that is a string"
        ),
        pytest.param([user(IMAGE), {"role": "assistant", "content": None}], [""], id="no content"),
    ],
)
def test_item_queries(messages, queries):
    assert item_queries(messages)["image"] == queries


def test_contents_that_can_be_read_once():
    messages = materialize([{"role": "user", "content": iter([IMAGE, text("a")])}])
    assert item_queries(messages)["image"] == ["a"]
    assert messages[0]["content"] == [IMAGE, text("a")]


def test_a_document_is_cut_to_its_ends():
    (query,) = item_queries([user(IMAGE, text("begin " + "x" * 100_000 + " end?"))])["image"]
    assert len(query) == MAX_QUERY_CHARS
    assert query.startswith("begin ") and query.endswith(" end?")


VICUNA = Scaffolding("USER:", "ASSISTANT:")
MISTRAL = Scaffolding("[INST]", "[/INST]")
NONE = Scaffolding("", "")


@pytest.mark.parametrize(
    "template, expected",
    [
        ("USER: <image>\n{} ASSISTANT: {}</s>USER: {} ASSISTANT:", VICUNA),
        ("A chat. USER: <image>\n{} ASSISTANT: {}</s>USER: {} ASSISTANT:", VICUNA),
        ("[INST] <image>\n{} [/INST] {}</s>[INST] {} [/INST]", MISTRAL),
        ("<image>{}\n{}\n{}\n", NONE),
    ],
)
def test_learn_scaffolding(template, expected):
    assert learn_scaffolding(template.format(*MARKS), "<image>") == expected


@pytest.mark.parametrize(
    "text, scaffolding, queries",
    [
        ("USER: <image>\nWhat? ASSISTANT:", VICUNA, ["What?"]),
        ("Be brief. USER: <image>\nWhat? ASSISTANT:", VICUNA, ["What?"]),
        ("USER: <image><image>\nCompare. ASSISTANT:", VICUNA, ["Compare."] * 2),
        (
            "USER: <image>\nWhat? ASSISTANT: A cat.</s>USER: <image>\nWhy? ASSISTANT:",
            VICUNA,
            ["What?", "Why?"],
        ),
        ("USER: <image>\nWhat? ASSISTANT: A cat.</s>USER: Why? ASSISTANT:", VICUNA, ["What?"]),
        ("USER: <image> USER: What? ASSISTANT:", VICUNA, ["What?"]),
        ("USER: What? ASSISTANT:", VICUNA, []),
        ("<s>[INST] <image>\nWhat? [/INST]", MISTRAL, ["What?"]),
        ("<image>\nWhat?", VICUNA, ["What?"]),  # does not follow the template
        ("<image>\nWhat?", NONE, ["What?"]),
    ],
)
def test_raw_item_queries(text, scaffolding, queries):
    assert raw_item_queries(text, {"image": "<image>"}, scaffolding) == {"image": queries}
