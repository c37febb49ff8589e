"""What a client gets wrong is a 400 that says so; nothing it sends breaks the server."""

import base64
import copy
import json
import random
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

LONG = "x" * 100_000


def send(server, body):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    url = f"{server.url}/chat/completions"
    return httpx.post(url, content=data, headers=headers, timeout=300)


@pytest.fixture(scope="module")
def body(picture):
    question = {"type": "text", "text": "What is shown?"}
    messages = [{"role": "user", "content": [picture(168, 168), question]}]
    return {"model": "tiny", "max_tokens": 4, "temperature": 0, "messages": messages}


@pytest.fixture(autouse=True, scope="module")
def answers_as_before(pruning_server, body):
    """Whatever a test of this module sent, the server answers a good request as it did before."""
    before = send(pruning_server, body).json()["choices"][0]["message"]
    yield
    assert send(pruning_server, body).json()["choices"][0]["message"] == before


@pytest.mark.parametrize(
    "script, words",
    [
        ({"keep_ratio": 0}, ["keep_ratio", "[0.01, 1]", "got 0", "1.0 keeps them all"]),
        ({"keep_ratio": -1}, ["keep_ratio", "[0.01, 1]", "got -1"]),
        ({"keep_ratio": 1.5}, ["keep_ratio", "[0.01, 1]", "got 1.5"]),
        ({"keep_ratio": 0.001}, ["keep_ratio", "[0.01, 1]", "got 0.001"]),
        ({"keep_ratio": float("nan")}, ["keep_ratio", "[0.01, 1]", "got nan"]),
        ({"keep_ratio": "x"}, ["keep_ratio", "[0.01, 1]", "got 'x'"]),
        ({"keep_ratio": 10**400}, ["keep_ratio", "[0.01, 1]", "got 1000"]),
        ({"keep_ratio": [0.5]}, ["keep_ratio", "[0.01, 1]", "got [0.5]"]),
        ({"keep_ratio": 0.5, "visual_token_budget": 9}, ["keep_ratio or visual_token", "not both"]),
        ({"visual_token_budget": 0}, ["visual_token_budget", "[1, 65536]", "got 0"]),
        ({"visual_token_budget": -1}, ["visual_token_budget", "[1, 65536]", "got -1"]),
        ({"visual_token_budget": 10**9}, ["visual_token_budget", "[1, 65536]", "got 1000000000"]),
        ({"visual_token_budget": 1.5}, ["visual_token_budget", "integer", "got 1.5"]),
        ({"mode": "best"}, ["mode", "cdpruner", "got 'best'"]),
        ({"mode": None, "relevance": "magic"}, ["relevance", "embedding", "got 'magic'"]),
        ({"relevance": "lm-attention"}, ["a start with --script-relevance lm-attention"]),
        ({"pruning_ratio": 0.5}, ["'pruning_ratio'", "valid are: keep_ratio"]),
        ({"tau": 0.5}, ["'tau'", "valid are: keep_ratio"]),
        ({"query": LONG}, ["query", "8192", "got 100000", "shorten"]),
        ({"query": " "}, ["query", "not empty"]),
        ({"query": "word " * 1600}, ["query", "16 windows", "shorten"]),
        ({"query": "\ud800"}, ["query", "surrogate"]),
        ({"query": ["a"]}, ["query", "got ['a']"]),
        ([], ["dictionary", "got []"]),
        ("keep_ratio=0.5", ["dictionary", "keep_ratio=0.5"]),
        (0.5, ["dictionary", "got 0.5"]),
        (LONG, ["dictionary", "..."]),
    ],
)
def test_mistakes_in_script(pruning_server, body, script, words):
    reply = send(pruning_server, body | {"script": script})
    assert reply.status_code == 400, reply.text
    message = reply.json()["error"]["message"]
    for word in words:
        assert word in message
    assert len(message) < 500


def test_mistakes_without_an_image(pruning_server, body):
    text_only = body | {"messages": [{"role": "user", "content": "Hello."}]}
    assert send(pruning_server, text_only).status_code == 200
    assert send(pruning_server, text_only | {"script": {"keep_ratio": 0.5}}).status_code == 200
    reply = send(pruning_server, text_only | {"script": {"keep_ratio": 7}})
    assert reply.status_code == 400
    assert "got 7" in reply.json()["error"]["message"]


def test_no_script_is_no_mistake(pruning_server, body):
    for script in (None, {}):
        assert send(pruning_server, body | {"script": script}).status_code == 200


def test_other_surfaces_say_the_same(pruning_server, body):
    wrong = body | {"script": {"keep_ratio": 7}}
    (message,) = body["messages"]
    image, text = message["content"]
    content = [
        {"type": "input_image", "image_url": image["image_url"]["url"], "detail": "auto"},
        {"type": "input_text", "text": text["text"]},
    ]
    responses = {"model": "tiny", "input": [{"role": "user", "content": content}]}
    root = pruning_server.url.removesuffix("/v1")
    for path, request in [
        ("/v1/chat/completions", wrong | {"stream": True}),
        ("/v1/responses", responses | {"script": {"keep_ratio": 7}}),
        ("/tokenize", wrong),
    ]:
        reply = httpx.post(root + path, json=request, timeout=300)
        assert reply.status_code == 400
        assert "keep_ratio must be a number in [0.01, 1], got 7" in reply.text


def broken_images(good_url):
    png = base64.b64decode(good_url.partition(",")[2])
    flipped = png[:60] + bytes(b ^ 0xFF for b in png[60:90]) + png[90:]
    for data in (b"", b"not an image", png[: len(png) // 2], flipped):
        yield "data:image/png;base64," + base64.b64encode(data).decode()
    yield "data:image/png;base64,%%%"
    yield "data:image/jpeg;base64," + base64.b64encode(b"\xff\xd8\xff\xe0" + b"\0" * 50).decode()
    yield "data:text/plain,hello"


def test_broken_images_are_vllms_own_errors(stock_server, pruning_server, body):
    image, text = body["messages"][0]["content"]
    urls = list(broken_images(image["image_url"]["url"]))
    lenient = [url for url in urls if url.startswith("data:image/png")]
    for url in urls:
        content = [{"type": "image_url", "image_url": {"url": url}}, text]
        broken = body | {"messages": [{"role": "user", "content": content}]}
        stock, ours = send(stock_server, broken), send(pruning_server, broken)
        assert ours.status_code == stock.status_code
        if stock.status_code == 200:  # the decoder made something of it
            assert url in lenient
        else:
            assert ours.text == stock.text


def test_too_many_images_are_vllms_own_error(stock_server, pruning_server, body):
    image, text = body["messages"][0]["content"]
    many = body | {"messages": [{"role": "user", "content": [image] * 5 + [text]}]}
    stock, ours = send(stock_server, many), send(pruning_server, many)
    assert (ours.status_code, ours.text) == (stock.status_code, stock.text)
    assert stock.status_code == 400


WEIRD = [
    *(None, True, False, 0, -1, 1e308, 2**70, "", "x", "\0", "\ud83d\ude00", LONG[:5000], [], {}),
    *(
        [[]],
        {"a": {}},
        {"type": "text"},
        {"type": "image_url"},
        "<image>",
        "data:image/png;base64,",
    ),
]
SCRIPTS = [
    *({}, {"keep_ratio": 0.5}, {"visual_token_budget": 9}, {"mode": "gsp"}, {"query": "the car"}),
    {"relevance": "embedding", "keep_ratio": 0.2},
]


def mutated(body, rng):
    """A body with one to three places replaced, removed or doubled, `script` and messages alone."""
    body = copy.deepcopy(body) | {"script": copy.deepcopy(rng.choice(SCRIPTS))}
    for _ in range(rng.randint(1, 3)):
        parent, key = body, rng.choice(["messages", "script"])
        while isinstance(parent[key], dict | list) and parent[key] and rng.random() < 0.75:
            parent = parent[key]
            key = rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
        action = rng.choice(["replace", "replace", "remove", "double", "rename"])
        if action == "remove" and parent is not body:
            del parent[key]
        elif action == "double" and isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[key]))
        elif action == "rename" and isinstance(parent, dict) and parent is not body:
            parent[rng.choice(["type", "role", "content", "keep_ratio", "mode", "uuid"])] = (
                parent.pop(key)
            )
        else:
            parent[key] = rng.choice(WEIRD)
        if not body.get("messages"):
            break
    return body


@pytest.mark.parametrize(
    "count", [200, pytest.param(2000, marks=pytest.mark.slow)], ids=["200", "2000"]
)
def test_fuzz(stock_server, pruning_server, body, count):
    rng = random.Random(count)
    bodies = [mutated(body, rng) for _ in range(count)]
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda b: send(pruning_server, b), bodies))
    accepted = sum(reply.status_code == 200 for reply in replies)
    assert count // 20 < accepted < count * 19 // 20  # else the bodies show nothing
    for sent, reply in zip(bodies, replies, strict=True):
        if reply.status_code >= 500:
            del sent["script"]
            assert send(stock_server, sent).status_code == reply.status_code, (sent, reply.text)


@pytest.mark.slow  # a server of its own
def test_an_item_above_the_limit(vllm_server, body, picture):
    """A picture of 312 visual tokens before pruning is refused, a smaller one answered."""
    with vllm_server("llava-next", "--keep-ratio", "0.1", "--script-max-item-tokens", "200") as own:
        reply = send(own, body)
        assert reply.status_code == 200
        large = body | {"messages": [{"role": "user", "content": [picture(336, 168)]}]}
        refused = send(own, large)
        assert refused.status_code == 400
        assert "image 0 has" in refused.json()["error"]["message"]
        assert "at most 200" in refused.json()["error"]["message"]
        assert send(own, body).json()["choices"] == reply.json()["choices"]
