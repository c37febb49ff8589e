"""Which text conditions which image."""

from dataclasses import replace

import pytest

from vllm_script.config import CONVERSATIONS, MAX_QUERY_CHARS, MAX_QUESTIONS
from vllm_script.frontend.phrases import ANSWER_PHRASES, AnswerPhrases
from vllm_script.frontend.queries import (
    MARKS,
    Reader,
    Scaffolding,
    conditioning,
    item_queries,
    learn_scaffolding,
    materialize,
    raw_item_queries,
)

READER = Reader(AnswerPhrases(ANSWER_PHRASES))
IMAGE = {"type": "image_url", "image_url": {"url": "x"}}


def text(words):
    return {"type": "text", "text": words}


def user(*parts):
    return {"role": "user", "content": list(parts)}


def assistant(words):
    return {"role": "assistant", "content": words}


def tool(*parts):
    return {"role": "tool", "tool_call_id": "1", "content": list(parts)}


CALLS = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function"}]}
SYSTEM = {"role": "system", "content": "Read the totals of invoices."}
BRIEFLY = "Answer the question using a single word or phrase."


@pytest.mark.parametrize(
    "messages, queries",
    [
        pytest.param([user(IMAGE, text("a"))], ["a"], id="one image"),
        pytest.param([user(text("a"), IMAGE, text("b"))], ["a\nb"], id="text around it"),
        pytest.param([user(IMAGE, text("a"), IMAGE)], ["a", "a"], id="two images"),
        pytest.param([user(text("a"))], [], id="no image"),
        pytest.param([user(IMAGE)], [""], id="no text"),
        pytest.param([user(IMAGE), user(text("a"))], ["a"], id="next message of the stretch"),
        pytest.param(
            [user(IMAGE, text("a")), assistant("x"), user(text("b"))], ["a"], id="later turn"
        ),
        pytest.param(
            [user(IMAGE, text("a")), assistant("x"), user(IMAGE, text("b"))],
            ["a", "b"],
            id="image in each turn",
        ),
        pytest.param([SYSTEM, user(IMAGE, text("a"))], ["a"], id="system prompt"),
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
        # What is sent without words.
        pytest.param(
            [user(IMAGE), assistant("?"), user(text("a")), assistant("x"), user(text("b"))],
            ["a"],
            id="asked about later",
        ),
        pytest.param(
            [user(text("a")), assistant("x"), user(IMAGE)], ["a"], id="nothing more said yet"
        ),
        pytest.param(
            [user(text("a")), assistant("x"), user(IMAGE), assistant("y"), user(text("b"))],
            ["b"],
            id="the next words, once there are any",
        ),
        pytest.param(
            [user(IMAGE, text(BRIEFLY)), assistant("?"), user(text("a"))],
            ["a"],
            id="words that say how to answer",
        ),
        # What tools and assistants show.
        pytest.param([user(text("a")), tool(IMAGE, text("t"))], ["a"], id="a tool's image"),
        pytest.param([user(text("a")), CALLS, tool(IMAGE)], ["a"], id="after a call"),
        pytest.param(
            [user(text("a")), CALLS, tool(IMAGE), tool(IMAGE)], ["a", "a"], id="parallel calls"
        ),
        pytest.param(
            [user(text("a")), CALLS, tool(IMAGE), CALLS, tool(IMAGE), assistant("done")],
            ["a", "a"],
            id="step after step",
        ),
        pytest.param(
            [user(text("a")), CALLS, tool(IMAGE), assistant("x"), user(text("b")), CALLS]
            + [tool(IMAGE)],
            ["a", "b"],
            id="a new task",
        ),
        pytest.param(
            [user(text("a")), CALLS, tool(IMAGE), user(text("b"))],
            ["a\nb"],
            id="and what follows in its turn",
        ),
        pytest.param(
            [user(text("a")), CALLS, tool(text("done")), user(IMAGE), CALLS, tool(text("done"))]
            + [user(IMAGE), assistant("x"), user(text("b"))],
            ["a", "a"],
            id="a screenshot behind a tool's words",
        ),
        pytest.param(
            [user(text("a")), CALLS, tool(text("done")), user(text("Screenshot:"), IMAGE)],
            ["a\nScreenshot:"],
            id="a screenshot with a caption",
        ),
        pytest.param(
            [
                user(text("a")),
                CALLS,
                tool(text("done")),
                user(text("(a hint)")),
                CALLS,
                tool(IMAGE),
            ],
            ["a\n(a hint)"],
            id="a hint between two steps",
        ),
        pytest.param(
            [user(text("a")), assistant("look"), user(IMAGE), assistant("click"), user(IMAGE)]
            + [assistant("click"), user(IMAGE), assistant("done"), user(text("b"))],
            ["a", "a", "b"],
            id="screenshots of an agent without tools",
        ),
        pytest.param(
            [user(text("a")), CALLS, tool(text("ok")), SYSTEM, user(IMAGE), CALLS, tool(IMAGE)],
            ["a", "a"],
            id="a system message between two steps",
        ),
        pytest.param(
            [user(text("a")), {"role": "assistant", "content": [IMAGE]}, user(text("b"))],
            ["a"],
            id="an assistant's image",
        ),
        pytest.param([CALLS, tool(IMAGE)], [""], id="nobody said anything"),
        pytest.param(
            [CALLS, tool(IMAGE), assistant("x"), user(text("a"))], ["a"], id="said only later"
        ),
    ],
)
def test_own_questions(messages, queries):
    found = item_queries(messages, READER)["image"]
    assert [conditioning(each, "turn") for each in found] == [(q,) if q else () for q in queries]


CHAT = [
    user(IMAGE, text("a")),
    assistant("x"),
    user(text("b"), IMAGE),
    assistant("y"),
    user(text("a")),
]


@pytest.mark.parametrize(
    "policy, first, second",
    [
        ("turn", ("a",), ("b",)),
        ("latest", ("a",), ("a",)),
        ("all", ("a", "b"), ("b", "a")),
    ],
)
def test_policies(policy, first, second):
    queries = item_queries(CHAT, READER)["image"]
    assert [conditioning(each, policy) for each in queries] == [first, second]


@pytest.mark.parametrize("policy", CONVERSATIONS)
def test_an_image_that_nobody_asked_about(policy):
    assert conditioning((), policy) == ()


@pytest.mark.parametrize("number", range(1, 21))
def test_a_conversation_counts_by_its_first_and_newest_questions(number):
    questions = [str(place) for place in range(number)]
    newest = questions[-(MAX_QUESTIONS - 1) :]
    assert conditioning(questions, "all") == tuple(dict.fromkeys(["0", *newest]))


def test_a_question_that_is_asked_again_is_new():
    questions = [str(place) for place in range(20)] + ["3", "5"]
    newest = [str(place) for place in range(15, 20)]
    assert conditioning(questions, "all") == ("0", *newest, "3", "5")
    assert conditioning(["a", "b", "a"], "all") == ("a", "b")


def test_a_system_prompt_counts_where_the_operator_says_so():
    reader = replace(READER, system_prompt=True)
    messages = [SYSTEM, user(IMAGE, text("a")), assistant("x"), user(text("b"))]
    (questions,) = item_queries(messages, reader)["image"]
    assert questions == ("Read the totals of invoices.\na", "Read the totals of invoices.\nb")
    assert item_queries([*messages, SYSTEM], reader)["image"] == [questions], "a later one"
    (alone,) = item_queries([SYSTEM, user(IMAGE)], reader)["image"]
    assert alone == ("Read the totals of invoices.",)


def test_contents_that_can_be_read_once():
    messages = materialize([{"role": "user", "content": iter([IMAGE, text("a")])}])
    assert item_queries(messages, READER)["image"] == [("a",)]
    assert messages[0]["content"] == [IMAGE, text("a")]


def test_a_document_is_cut_to_its_ends():
    messages = [user(IMAGE, text("begin " + "x" * 100_000 + " end?"))]
    ((query,),) = item_queries(messages, READER)["image"]
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
    found = raw_item_queries(text, {"image": "<image>"}, scaffolding, READER)
    assert [conditioning(each, "turn") for each in found["image"]] == [(q,) for q in queries]


def test_later_questions_of_a_raw_prompt():
    text = "USER: <image>\nWhat? ASSISTANT: A cat.</s>USER: Why? ASSISTANT:"
    found = raw_item_queries(text, {"image": "<image>"}, VICUNA, READER)
    assert found["image"] == [("What?", "Why?")]
