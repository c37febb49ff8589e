"""What the proxy sends to whom, and what its clients get where a server is gone."""

import asyncio
import json
import socket

import httpx
import pytest

from vllm_script.server.proxy import CHAT, Proxy, _by_affinity

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
VIDEO = {"type": "video_url", "video_url": {"url": "https://host/v.mp4"}}
TEXT = {"type": "text", "text": "What is shown?"}


def chat(*parts, **fields):
    return {"model": "tiny", "messages": [{"role": "user", "content": list(parts)}], **fields}


class Chunks(httpx.AsyncByteStream):
    """A body that comes byte by byte, and breaks off after the first where it is told to."""

    def __init__(self, content, breaks):
        self._content, self._breaks = content, breaks

    async def __aiter__(self):
        for byte in self._content:
            yield bytes([byte])
            if self._breaks:
                raise httpx.ReadError("closed")


class Instances:
    """Encoders and language models that say who they are; addresses are http://NAME."""

    def __init__(self, encoders=("http://e",), servers=("http://l",)):
        self.asked, self.gone, self.dying, self.refusing = [], set(), set(), {}
        self.headers, self.own_headers = [], []
        self.targets, self.timeouts = [], []
        self.breaking = False
        self.proxy = Proxy(encoders, servers)
        self.proxy._client._transport = httpx.MockTransport(self._answer)

    def _answer(self, request):
        name = request.url.host
        if name in self.gone:
            raise httpx.ConnectError("refused", request=request)
        body = json.loads(request.content) if request.content else None
        self.asked.append((name, request.method, request.url.path, body))
        self.targets.append(request.url.raw_path.decode())
        self.timeouts.append(request.extensions["timeout"])
        self.headers.append(request.headers.raw)
        if name in self.dying:
            raise httpx.RemoteProtocolError("closed", request=request)
        status = self.refusing.get(name, 200)
        content = Chunks(json.dumps({"from": name}).encode(), self.breaking)
        return httpx.Response(status, stream=content, headers=[("x-own", name), *self.own_headers])

    def send(self, path=CHAT, body=None, method="POST", headers=()):
        async def send():
            transport = httpx.ASGITransport(self.proxy.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://p") as client:
                return await client.request(method, path, json=body, headers=headers)

        return asyncio.run(send())

    def names(self):
        return [name for name, *_ in self.asked]


@pytest.mark.parametrize("item", [IMAGE, VIDEO, {"image_url": "https://host/a.png"}])
def test_images_are_encoded_before_the_answer(item):
    both = Instances()
    script = {"keep_ratio": 0.3}
    asked = chat(item, TEXT, script=script, stream=True, logprobs=True, max_tokens=90)
    reply = both.send(body=asked)
    assert (reply.json(), reply.headers["x-own"]) == ({"from": "l"}, "l")
    (name, _, path, encoded), (_, _, _, answered) = both.asked
    assert (name, path) == ("e", CHAT)
    assert encoded == chat(item, TEXT, script=script, max_completion_tokens=1, stream=False)
    assert answered == asked


@pytest.mark.parametrize(
    "body",
    [chat(TEXT), {"messages": [{"role": "user", "content": "Hi"}]}, {"messages": 3}, {}, [1]]
    + [
        {"messages": wrong}
        for wrong in ({}, [3], [{"content": ["x"]}], [{"content": [{"type": 3}]}])
    ],
)
def test_what_has_no_images_goes_to_a_language_model(body):
    both = Instances()
    assert both.send(body=body).json() == {"from": "l"}
    assert both.names() == ["l"]


def test_what_is_nested_too_deep_is_vllms_to_refuse():
    body, seen, proxy = b"[" * 100_000, [], Proxy(["http://e"], ["http://l"])

    def refuse(request):
        seen.append((request.url.host, request.content))
        return httpx.Response(400, stream=Chunks(b"no", False))

    async def send():
        transport = httpx.ASGITransport(proxy.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://p") as client:
            return await client.post(CHAT, content=body)

    proxy._client._transport = httpx.MockTransport(refuse)
    assert asyncio.run(send()).status_code == 400
    assert seen == [("l", body)]


def test_other_routes_go_to_a_language_model():
    both = Instances()
    assert both.send("/v1/models", method="GET").json() == {"from": "l"}
    assert both.send("/v1/responses", {"input": [IMAGE]}).json() == {"from": "l"}
    assert [path for _, _, path, _ in both.asked] == ["/v1/models", "/v1/responses"]


@pytest.mark.parametrize("path", [CHAT, "/v1/files/a"])
@pytest.mark.parametrize("method", ["HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_other_methods_go_to_a_language_model(method, path):
    both = Instances()
    assert both.send(path, {"a": 1}, method=method).status_code == 200
    assert both.asked == [("l", method, path, {"a": 1})]


@pytest.mark.parametrize("address", ["http://l", "http://l/below"])
@pytest.mark.parametrize(
    "target", ["/v1/files/a%2Fb%20c%3F?x=%2B&y=a+b&y=", "/v1/models", "/%2e%2e"]
)
def test_paths_and_queries_are_passed_on_as_they_are(address, target):
    both = Instances(servers=[address])
    both.send(target, method="GET")
    assert both.targets == [address.removeprefix("http://l") + target]


@pytest.mark.parametrize("address", ["http://l", "http://l/tenant-a"])
@pytest.mark.parametrize(
    ("path", "query"),
    [(b"%2F@m/", b""), (b"-b/v1", b""), (b"/../tenant-b/v1", b""), (b"/./v1", b""), (b"/", b'"')],
    ids=["another host", "a longer folder", "dots", "a dot", "an unescaped query"],
)
def test_nothing_is_asked_for_but_what_came(address, path, query):
    both = Instances(servers=[address])
    scope = {"type": "http", "method": "GET", "path": "/m", "raw_path": path}
    scope |= {"headers": [], "query_string": query, "server": ("p", 80), "scheme": "http"}
    messages = [{"type": "http.request"}]
    sent = []

    async def receive():
        return messages.pop() if messages else await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    asyncio.run(both.proxy.app(scope, receive, send))
    assert sent[0]["status"] == 400
    assert b"/m is no path that can be asked for: " in sent[1]["body"]
    assert both.asked == []


def test_an_answer_may_take_as_long_as_it_likes():
    both = Instances()
    both.send(body=chat(IMAGE, TEXT))
    assert [(timeout["connect"], timeout["read"]) for timeout in both.timeouts] == [(5, None)] * 2


def test_a_machine_that_is_gone_is_noticed():
    """By the kernel, which asks the other one on connections on which nothing comes."""

    async def options():
        async def answer(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            url = "http://{}:{}".format(*server.sockets[0].getsockname())
            async with Proxy([url], [url])._client as client:
                reply = await client.get(url)
                connection = reply.extensions["network_stream"].get_extra_info("socket")
                assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)

    assert asyncio.run(options()) == 120_000


def test_an_encoders_refusal_is_the_answer():
    both = Instances()
    both.refusing["e"] = 400
    reply = both.send(body=chat(IMAGE, TEXT))
    assert (reply.status_code, reply.json()) == (400, {"from": "e"})
    assert both.names() == ["e"]


@pytest.mark.parametrize(("lost", "words"), [("e", "encoder"), ("l", "language model")])
@pytest.mark.parametrize("how", ["gone", "dying"])
def test_who_is_gone_is_an_error_to_retry(lost, words, how):
    both = Instances()
    getattr(both, how).add(lost)
    reply = both.send(body=chat(IMAGE, TEXT))
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
    assert f"no {words} answers at the moment; try again" in reply.json()["error"]["message"]
    assert "http" not in reply.text, "addresses inside are nobody's business"


def test_health_needs_both_sides():
    for gone, status in [((), 200), (("e",), 503), (("l",), 503)]:
        both = Instances()
        both.gone.update(gone)
        assert both.send("/health", method="GET").status_code == status


def test_one_that_refuses_connections_is_passed_over():
    many = Instances(["http://e1", "http://e2"], ["http://l1", "http://l2"])
    many.send(body=chat(IMAGE, TEXT))
    (encoder, server) = many.names()
    many.gone.update((encoder, server))
    assert many.send(body=chat(IMAGE, TEXT)).status_code == 200
    assert set(many.names()[2:]) == {"e1", "e2", "l1", "l2"} - {encoder, server}


def test_the_same_image_goes_to_the_same_encoder():
    many = Instances([f"http://e{n}" for n in range(4)], ["http://l"])
    for question in range(5):
        text = {"type": "text", "text": f"question {question}"}
        many.send(body=chat(IMAGE, text))
    assert len(set(many.names()) - {"l"}) == 1


def test_images_spread_and_few_move_when_an_encoder_comes():
    urls = [f"http://e{n}" for n in range(4)]
    images = [str(number).encode() for number in range(1000)]
    before = [_by_affinity(urls, image)[0] for image in images]
    assert all(150 < before.count(url) < 350 for url in urls)
    after = [_by_affinity([*urls, "http://new"], image)[0] for image in images]
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert 100 < len(moved) < 300
    assert set(moved) == {"http://new"}


def test_a_picture_is_known_by_its_uuid():
    many = Instances([f"http://e{n}" for n in range(8)], ["http://l"])
    for named in {**IMAGE, "uuid": "a"}, {"type": "image_url", "image_url": None, "uuid": "a"}:
        many.send(body=chat(named, TEXT))
    encoders = [name for name in many.names() if name != "l"]
    assert encoders == encoders[:1] * 2


def test_chats_of_one_system_prompt_spread():
    many = Instances(servers=[f"http://l{n}" for n in range(4)])
    system = {"role": "system", "content": "Be brief."}
    for number in range(30):
        messages = [system, {"role": "user", "content": f"Question {number}"}]
        many.send(body={"messages": messages})
        answer = {"role": "assistant", "content": "Yes."}
        many.send(body={"messages": [*messages, answer, {"role": "user", "content": "Why?"}]})
    names = many.names()
    assert names[::2] == names[1::2], "a chat stays where it was"
    assert len(set(names)) == 4


@pytest.mark.parametrize("choice", [{}, {"tool_choice": "required"}])
def test_an_encoder_calls_no_tools(choice):
    both, tools = Instances(), [{"type": "function", "function": {"name": "f"}}]
    both.send(body=chat(IMAGE, TEXT, tools=tools, **choice))
    (*_, encoded), (*_, answered) = both.asked
    assert (encoded["tools"], encoded["tool_choice"]) == (tools, "none")
    assert answered == chat(IMAGE, TEXT, tools=tools, **choice)


@pytest.mark.parametrize("status", [200, 400])
def test_headers_are_passed_on_as_they_are(status):
    both = Instances()
    both.refusing["e"] = status
    two = [(b"x-two", b"1"), (b"x-two", "\xe9".encode())]
    both.own_headers = [*two, (b"Set-Cookie", b"a=1"), (b"Set-Cookie", b"b=2")]
    reply = both.send(body=chat(IMAGE, TEXT), headers=[*two, (b"cookie", b"own=1")])
    kept = [*two, (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
    assert [pair for pair in reply.headers.raw if pair in kept] == kept
    for sent in both.headers:
        assert [pair for pair in sent if pair in two] == two
        assert [value for name, value in sent if name.lower() == b"cookie"] == [b"own=1"]
        assert len([name for name, _ in sent if name.lower() == b"content-length"]) == 1


def test_cookies_are_kept_for_nobody():
    both = Instances()
    both.own_headers = [("set-cookie", "session=secret; Path=/")]
    for _ in range(2):
        both.send("/v1/models", method="GET")
    assert not [name for sent in both.headers for name, _ in sent if name.lower() == b"cookie"]


def test_health_asks_all_at_once():
    async def ask():
        proxy, together = Proxy(["http://e1", "http://e2"], ["http://l1"]), asyncio.Barrier(3)

        async def answer(request):
            async with asyncio.timeout(5):
                await together.wait()
            return httpx.Response(503 if request.url.host == "e1" else 200)

        proxy._client._transport = httpx.MockTransport(answer)
        return await proxy.health(None)

    assert asyncio.run(ask()).status_code == 200


@pytest.mark.parametrize("slow", ["e", "l"])
def test_nobody_works_for_a_client_that_has_gone(slow):
    async def go():
        proxy = Proxy(["http://e"], ["http://l"])
        asked, stopped = asyncio.Event(), []

        async def answer(request):
            if request.url.host == slow:
                asked.set()
                try:
                    await asyncio.sleep(30)
                finally:
                    stopped.append(request.url.host)
            return httpx.Response(200, stream=Chunks(b"{}", False))

        messages = [{"type": "http.request", "body": json.dumps(chat(IMAGE, TEXT)).encode()}]

        async def receive():
            if messages:
                return messages.pop()
            await asked.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            pass

        proxy._client._transport = httpx.MockTransport(answer)
        scope = {"type": "http", "method": "POST", "path": CHAT, "raw_path": CHAT.encode()}
        scope |= {"headers": [], "query_string": b"", "server": ("p", 80), "scheme": "http"}
        async with asyncio.timeout(5):
            await proxy.app(scope, receive, send)
        return stopped

    assert asyncio.run(go()) == [slow]


def test_a_stream_that_breaks_off_is_no_complete_answer():
    both = Instances()
    both.breaking = True
    with pytest.raises(httpx.ReadError):
        both.send(body=chat(TEXT, stream=True))


def test_an_address_is_checked(vllm_script):
    status, _, words = vllm_script("proxy", "--encoder", "e:8000", "--server", "http://l")
    assert status == 2
    assert "e:8000 is no address; give one such as http://host:8000" in words
