"""`vllm launch render`: prompts are made where there is no engine, and answered elsewhere."""

import base64
import json
import sys
import tempfile
from pathlib import Path

import httpx
import pytest

import vllm_script

from .test_surfaces import QUESTION, SETTINGS, chat_body

KEY, TOKEN = "key-of-the-renderer", "hf_token-of-the-renderer"
HEADERS = {"Authorization": f"Bearer {KEY}"}
MORE = {"max_tokens": 6, "temperature": 0, "ignore_eos": True, "logprobs": True}


@pytest.fixture(scope="module")
def renderer(vllm_server):
    flags = ("--plugin", "script", "--keep-ratio", "0.11", "--api-key", KEY, "--script-explain")
    server = vllm_server("llava-next", *flags, HF_TOKEN=TOKEN)
    at = server._command.index("serve")
    server._command[at : at + 1] = ["launch", "render"]
    with server:
        yield server


@pytest.fixture
def rendered(renderer, picture):
    """rendered(script, ...) -> the response to a chat request with a picture."""

    def rendered(script=None, seed=640):
        body = chat_body([picture(168, 168, seed=seed), QUESTION], script, **MORE)
        url = f"{renderer.url}/chat/completions/render"
        return httpx.post(url, json=body, headers=HEADERS, timeout=60)

    return rendered


def generated(server, prompt):
    url = server.url.removesuffix("/v1") + "/inference/v1/generate"
    return httpx.post(url, json=prompt, timeout=60)


@pytest.mark.parametrize("script", SETTINGS)
def test_an_engine_elsewhere_answers(rendered, pruning_server, picture, ask, script):
    prompt = rendered(script)
    assert prompt.status_code == 200, prompt.text
    expected = ask(pruning_server, [picture(168, 168, seed=640), QUESTION], script)
    assert len(prompt.json()["token_ids"]) == expected.prompt_tokens
    reply = generated(pruning_server, prompt.json())
    assert reply.status_code == 200, reply.text
    assert tuple(reply.json()["choices"][0]["token_ids"]) == expected.token_ids


def test_a_server_without_the_plugin_refuses(rendered, stock_server, picture, ask):
    reply = generated(stock_server, rendered(seed=641).json())
    assert reply.status_code >= 400
    assert "field_for_the_script_plugin" in reply.text
    whole = generated(stock_server, rendered({"keep_ratio": 1.0}, seed=641).json())
    expected = ask(stock_server, [picture(168, 168, seed=641), QUESTION])
    assert tuple(whole.json()["choices"][0]["token_ids"]) == expected.token_ids


def test_a_mistake_is_a_400(rendered):
    reply = rendered({"keep_ratio": 7})
    assert reply.status_code == 400
    assert "keep_ratio" in reply.json()["error"]["message"]


def test_nothing_of_the_renderer_is_told(rendered, checkpoint):
    prompt = rendered({"relevance": "clip"}, seed=642)
    folders = [
        checkpoint("llava-next"),
        tempfile.gettempdir(),
        sys.prefix,
        Path(vllm_script.__file__).parent,
    ]
    secrets = [KEY, TOKEN, *map(str, folders)]
    data = "".join(
        base64.b64decode(item).decode("latin-1")
        for item in strings(prompt.json())
        if len(item) > 64 and len(item) % 4 == 0
    )
    assert "field_for_the_script_plugin" in data, "the fields were not looked into"
    assert [secret for secret in secrets if secret in prompt.text or secret in data] == []


def strings(value):
    """All strings in parsed JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from strings(each)


def test_what_needs_an_engine_is_not_there(renderer):
    root = renderer.url.removesuffix("/v1")
    assert httpx.get(f"{root}/metrics").status_code == 200
    for method, path in [("POST", "/v1/script/explain"), ("GET", "/v1/script/stats")]:
        assert httpx.request(method, root + path, headers=HEADERS, json={}).status_code == 404
    assert httpx.post(f"{root}/v1/chat/completions", headers=HEADERS, json={}).status_code == 404
    assert json.loads(httpx.get(f"{root}/v1/models", headers=HEADERS).text)["data"][0]["id"]
