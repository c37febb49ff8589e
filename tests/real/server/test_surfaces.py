"""Every way in gives the plan, and so the answer, of chat completions."""

import base64
import io
import json

import httpx
import openai
import pytest
import torch

QUESTION = {"type": "text", "text": "How many people are there?"}
EOS = 2
SETTINGS = [None, {"keep_ratio": 0.3, "mode": "cdpruner"}, {"keep_ratio": 1.0}]


@pytest.fixture
def post(pruning_server):
    """post(path below the server's root, body) -> (status, parsed reply)."""

    def post(path, body):
        reply = httpx.post(pruning_server.url.removesuffix("/v1") + path, json=body, timeout=300)
        return reply.status_code, reply.json()

    return post


def chat_body(parts, script=None, **more):
    body = {"model": "tiny", "messages": [{"role": "user", "content": parts}]} | more
    return body if script is None else body | {"script": script}


@pytest.mark.parametrize("script", SETTINGS)
def test_streaming(pruning_server, picture, ask, script):
    parts = [picture(168, 168, seed=600), QUESTION]
    whole = ask(pruning_server, parts, script)
    client = openai.OpenAI(base_url=pruning_server.url, api_key="none", max_retries=0)
    stream = client.chat.completions.create(
        **chat_body(parts, max_tokens=6, temperature=0, stream=True, logprobs=True),
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True} | ({} if script is None else {"script": script}),
    )
    chunks = list(stream)
    logprobs = [
        token.logprob
        for c in chunks
        for choice in c.choices
        if choice.logprobs
        for token in choice.logprobs.content
    ]
    assert logprobs == pytest.approx(whole.logprobs, abs=1e-3)
    assert chunks[-1].usage.prompt_tokens == whole.prompt_tokens


@pytest.mark.parametrize("script", SETTINGS)
def test_responses(pruning_server, picture, ask, post, script):
    for seed in range(610, 640):
        image = picture(168, 168, seed=seed)
        content = [
            {"type": "input_image", "image_url": image["image_url"]["url"], "detail": "auto"},
            {"type": "input_text", "text": QUESTION["text"]},
        ]
        body = {
            "model": "tiny",
            "input": [{"role": "user", "content": content}],
            "max_output_tokens": 6,
            "temperature": 0,
            "include": ["message.output_text.logprobs"],
            "top_logprobs": 1,
        }
        status, reply = post("/v1/responses", body if script is None else body | {"script": script})
        assert status == 200, reply
        whole = ask(pruning_server, [image, QUESTION], script)
        assert reply["usage"]["input_tokens"] == whole.prompt_tokens
        (output,) = [o for o in reply["output"] if o["type"] == "message"]
        # This surface has no ignore_eos, and reports no logprobs of an answer without text.
        if output["content"] and EOS not in whole.token_ids:
            logprobs = [token["logprob"] for token in output["content"][0]["logprobs"]]
            assert logprobs == pytest.approx(whole.logprobs, abs=1e-3)
            return
    pytest.fail("no picture of 30 has an answer to compare")


@pytest.mark.parametrize("script", SETTINGS)
def test_tokenize(pruning_server, picture, ask, post, script):
    parts = [picture(168, 168, seed=602), QUESTION]
    status, reply = post("/tokenize", chat_body(parts, script))
    assert status == 200, reply
    assert reply["count"] == ask(pruning_server, parts, script, max_tokens=1).prompt_tokens


def anthropic_body(image, script, **more):
    """The same picture and question as Anthropic's clients send them."""
    _, _, data = image["image_url"]["url"].partition("base64,")
    source = {"type": "base64", "media_type": "image/png", "data": data}
    content = [{"type": "image", "source": source}, QUESTION]
    body = {"model": "tiny", "messages": [{"role": "user", "content": content}]} | more
    return body if script is None else body | {"script": script}


@pytest.mark.parametrize("script", SETTINGS)
def test_anthropic_messages(picture, ask, post, pruning_server, script):
    image = picture(168, 168, seed=606)
    whole = ask(pruning_server, [image, QUESTION], script, max_tokens=1)
    status, reply = post("/v1/messages", anthropic_body(image, script, max_tokens=1))
    assert status == 200, reply
    usage = reply["usage"]
    tokens = usage["input_tokens"] + (usage.get("cache_read_input_tokens") or 0)
    assert tokens == whole.prompt_tokens
    status, reply = post("/v1/messages/count_tokens", anthropic_body(image, script))
    assert (status, reply["input_tokens"]) == (200, whole.prompt_tokens)


def test_a_mistake_in_anthropic_messages_is_a_400(picture, post):
    body = anthropic_body(picture(100, 60), {"keep_ratio": 7}, max_tokens=1)
    status, reply = post("/v1/messages", body)
    assert status == 400
    assert "keep_ratio" in json.dumps(reply)


@pytest.mark.parametrize("script", SETTINGS)
def test_batch_route(picture, ask, post, pruning_server, script):
    parts = [[picture(168, 168, seed=seed), QUESTION] for seed in (607, 608)]
    body = {"model": "tiny", "max_tokens": 6, "temperature": 0, "ignore_eos": True}
    body |= {"messages": [[{"role": "user", "content": each}] for each in parts]}
    body |= {"logprobs": True, "return_token_ids": True}
    body |= {} if script is None else {"script": script}
    status, reply = post("/v1/chat/completions/batch", body)
    assert status == 200, reply
    expected = [ask(pruning_server, each, script) for each in parts]
    assert reply["usage"]["prompt_tokens"] == sum(each.prompt_tokens for each in expected)
    for choice, one in zip(reply["choices"], expected, strict=True):
        logprobs = [token["logprob"] for token in choice["logprobs"]["content"]]
        assert logprobs == pytest.approx(one.logprobs, abs=1e-3)


@pytest.mark.parametrize("script", SETTINGS)
def test_rendered_then_generated(picture, ask, post, pruning_server, script):
    """/v1/chat/completions/render makes the prompt, /inference/v1/generate answers it."""
    parts = [picture(168, 168, seed=609), QUESTION]
    more = {"max_tokens": 6, "temperature": 0, "ignore_eos": True, "logprobs": True}
    status, rendered = post("/v1/chat/completions/render", chat_body(parts, script, **more))
    assert status == 200, rendered
    assert "/" not in json.dumps(rendered["features"]["mm_hashes"]), "no path of the server"
    expected = ask(pruning_server, parts, script)
    assert len(rendered["token_ids"]) == expected.prompt_tokens
    status, reply = post("/inference/v1/generate", rendered)
    assert status == 200, reply
    assert tuple(reply["choices"][0]["token_ids"]) == expected.token_ids


def test_what_is_rendered_pruned_is_an_error_elsewhere(stock_server, picture, post, ask):
    """A server without this plugin would encode the whole image, for a prompt of fewer tokens."""
    parts, more = [picture(168, 168, seed=610), QUESTION], {"max_tokens": 4, "temperature": 0}
    _, rendered = post("/v1/chat/completions/render", chat_body(parts, **more))
    generate = stock_server.url.removesuffix("/v1") + "/inference/v1/generate"
    reply = httpx.post(generate, json=rendered, timeout=60)
    assert reply.status_code >= 400
    assert "field_for_the_script_plugin" in reply.text
    ask(stock_server, parts)  # its engine is well


def with_uuid(image, uuid, data=True):
    return {**image, "uuid": uuid, "image_url": image["image_url"] if data else None}


def test_uuid(pruning_server, picture, ask):
    """A name that the client gives stands for the image, with the same plan."""
    image = picture(168, 168, seed=603)
    first = ask(pruning_server, [with_uuid(image, "a"), QUESTION])
    again = ask(pruning_server, [with_uuid(image, "a", data=False), QUESTION])
    assert again.logprobs == pytest.approx(first.logprobs, abs=1e-3)
    assert again.prompt_tokens == first.prompt_tokens
    stock = {"keep_ratio": 1.0}
    whole = ask(pruning_server, [with_uuid(image, "a"), QUESTION], stock)
    again = ask(pruning_server, [with_uuid(image, "a", data=False), QUESTION], stock)
    assert again.prompt_tokens == whole.prompt_tokens > first.prompt_tokens
    other = ask(pruning_server, [with_uuid(image, "a"), QUESTION], {"keep_ratio": 0.3})
    assert whole.prompt_tokens > other.prompt_tokens > first.prompt_tokens


def test_uuid_without_its_image_needs_the_same_plan(stock_server, post, pruning_server, picture):
    """The cache has the image for one plan only: as with any unknown name, vLLM's own error."""
    image = picture(168, 168, seed=604)
    unknown = chat_body([with_uuid(image, "never seen", data=False), QUESTION])
    stock = httpx.post(stock_server.url + "/chat/completions", json=unknown)
    assert post("/v1/chat/completions", unknown)[0] == stock.status_code == 400
    known = [with_uuid(image, "b"), QUESTION]
    assert post("/v1/chat/completions", chat_body(known, max_tokens=1))[0] == 200
    other = chat_body([with_uuid(image, "b", data=False), {"type": "text", "text": "Why?"}])
    assert post("/v1/chat/completions", other)[0] == 400


def image_embeds(rows):
    data = io.BytesIO()
    torch.save(torch.randn(rows, 64, generator=torch.Generator().manual_seed(0)), data)
    encoded = base64.b64encode(data.getvalue()).decode()
    return {"type": "image_embeds", "image_embeds": encoded}


def test_image_embeds_are_left_whole(post):
    parts = [image_embeds(50), QUESTION]
    body = chat_body(parts, max_tokens=1)
    status, reply = post("/v1/chat/completions", body)
    assert status == 200, reply
    text = post("/v1/chat/completions", chat_body([QUESTION], max_tokens=1))[1]
    added = reply["usage"]["prompt_tokens"] - text["usage"]["prompt_tokens"]
    assert 50 <= added < 55  # its rows, and what the template writes around an image
    two = chat_body([image_embeds(50), image_embeds(30), QUESTION], max_tokens=1)
    assert post("/v1/chat/completions", two)[0] == 200
    assert post("/v1/chat/completions", body | {"script": {"keep_ratio": 1.0}})[0] == 200
    status, reply = post("/v1/chat/completions", body | {"script": {"keep_ratio": 0.5}})
    assert status == 400
    assert "image_embeds cannot be pruned" in reply["error"]["message"]


def test_batch_file(checkpoint, picture, ask, pruning_server, tmp_path):
    """`vllm run-batch` with the same flags."""
    import subprocess
    import sys

    parts = [picture(168, 168, seed=605), QUESTION]
    lines = [
        {
            "custom_id": str(number),
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": chat_body(
                parts, script, max_tokens=6, temperature=0, ignore_eos=True, logprobs=True
            ),
        }
        for number, script in enumerate(SETTINGS)
    ]
    batch, results = tmp_path / "batch.jsonl", tmp_path / "results.jsonl"
    batch.write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "run-batch"]
    command += ["-i", batch, "-o", results, "--model", checkpoint("llava-next")]
    command += ["--enforce-eager", "--dtype", "float32", "--max-model-len", "4096"]
    command += ["--served-model-name", "tiny", "--plugin", "script", "--keep-ratio", "0.11"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    replies = [json.loads(line)["response"]["body"] for line in results.read_text().splitlines()]
    for reply, script in zip(replies, SETTINGS, strict=True):
        expected = ask(pruning_server, parts, script)
        assert reply["usage"]["prompt_tokens"] == expected.prompt_tokens
        logprobs = [t["logprob"] for t in reply["choices"][0]["logprobs"]["content"]]
        assert logprobs == pytest.approx(expected.logprobs, abs=1e-3)
