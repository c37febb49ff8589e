"""What conditions the pictures that agents see: the five shapes in which clients send them.

Where a route does not say what a picture is conditioned on, its request must find in the prefix
cache what a chat request left there that chose that text itself: plans are part of the key.
"""

import httpx
import pytest

BLOCK = 32
TASK, NEXT_TASK = "Where is the red car?", "Read the sign above the door."
TURN = {"conversation": "turn"}
CALL = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}


def said(text):
    return {"type": "text", "text": text}


def turn(*parts):
    return {"role": "user", "content": list(parts)}


def calls(*ids):
    return {"role": "assistant", "content": None, "tool_calls": [CALL | {"id": i} for i in ids]}


def result(*parts, call="1"):
    return {"role": "tool", "tool_call_id": call, "content": list(parts)}


@pytest.fixture
def post(pruning_server):
    """post(path below the server's root, body) -> the parsed reply."""

    def post(path, body):
        url = pruning_server.url.removesuffix("/v1") + path
        reply = httpx.post(url, json={"model": "tiny"} | body, timeout=300)
        assert reply.status_code == 200, reply.text
        return reply.json()

    return post


@pytest.fixture
def conditioned(post):
    """conditioned(messages, script=None) -> what the pictures of a chat are conditioned on."""

    def conditioned(messages, script=None):
        body = {"messages": messages} | ({} if script is None else {"script": script})
        images = post("/v1/script/explain", body)["images"]
        return [question for image in images for question in image["query"]["questions"]]

    return conditioned


def test_tools_that_return_pictures(conditioned, picture):
    messages = [
        turn(said(TASK)),
        calls("1"),
        result(said("before"), picture(168, 168, 800)),
        {"role": "assistant", "content": "Left."},
        turn(said(NEXT_TASK)),
        calls("1"),
        result(picture(168, 168, 801)),
    ]
    assert conditioned(messages, TURN) == [TASK, NEXT_TASK]
    assert conditioned(messages) == [NEXT_TASK] * 2


def test_parallel_calls(conditioned, picture):
    messages = [
        turn(said(TASK)),
        calls("1", "2"),
        result(picture(168, 168, 802), call="1"),
        result(picture(84, 200, 803), call="2"),
    ]
    assert conditioned(messages) == [TASK, TASK]


def test_a_screenshot_after_each_step(conditioned, picture):
    """Tool messages of many servers hold no pictures: the client sends them as the user."""
    step = [calls("1"), result(said("clicked"))]
    messages = [
        turn(said(f"{TASK} Answer with one word.")),
        *step,
        turn(picture(168, 168, 804)),
        *step,
        turn(picture(168, 168, 805)),
        {"role": "assistant", "content": "Left."},
        turn(said(NEXT_TASK)),
        *step,
        turn(picture(168, 168, 806)),
    ]
    assert conditioned(messages, TURN) == [TASK, TASK, NEXT_TASK]
    assert conditioned(messages[:-4]) == [TASK] * 2  # a step is no new question


def test_function_calls_of_responses(pruning_server, post, ask, picture):
    image = picture(168, 168, 807)
    url = image["image_url"]["url"]
    chat = [turn(said(TASK)), calls("1"), result(image)]
    assert ask(pruning_server, chat, {"query": NEXT_TASK}).cached_tokens < BLOCK
    ask(pruning_server, chat, {"query": TASK})
    body = {
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": TASK}]},
            {"type": "function_call", "call_id": "1", "name": "look", "arguments": "{}"},
            {
                "type": "function_call_output",
                "call_id": "1",
                "output": [{"type": "input_image", "image_url": url, "detail": "auto"}],
            },
        ],
        "max_output_tokens": 1,
    }
    usage = post("/v1/responses", body)["usage"]
    cached = usage["input_tokens_details"]["cached_tokens"]
    assert cached >= usage["input_tokens"] - BLOCK


def test_tool_results_of_messages(pruning_server, post, ask, picture):
    image = picture(168, 168, 808)
    data = image["image_url"]["url"].partition("base64,")[2]
    # vLLM has the picture of a tool's result follow it as the user's.
    chat = [turn(said(TASK)), calls("1"), result(said("")), turn(image)]
    assert ask(pruning_server, chat, {"query": NEXT_TASK}).cached_tokens < BLOCK
    ask(pruning_server, chat, {"query": TASK})
    source = {"type": "base64", "media_type": "image/png", "data": data}
    shown = [{"type": "image", "source": source}]
    body = {
        "messages": [
            {"role": "user", "content": TASK},
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "1", "name": "look", "input": {}}],
            },
            turn({"type": "tool_result", "tool_use_id": "1", "content": shown}),
        ],
        "max_tokens": 1,
    }
    usage = post("/v1/messages", body)["usage"]
    cached = usage["cache_read_input_tokens"]
    assert usage["input_tokens"] < BLOCK  # what was not cached
    assert cached > 0
