"""What Ray Serve is told, and by what requests are told apart; tests/real/ runs it."""

import asyncio
import json
from types import SimpleNamespace

import httpx
import pytest

pytest.importorskip("ray", reason="Ray is not installed; the extra `ray` has it")

from ray.exceptions import RayActorError
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve.exceptions import DeploymentUnavailableError, ReplicaUnavailableError
from starlette.requests import Request

from vllm_script.server.deploy import ray_serve
from vllm_script.server.deploy.ray_serve import Door, Options, Server, app, session_of
from vllm_script.server.proxy import CHAT

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
OTHER = {"type": "image_url", "image_url": {"url": "data:image/png;base64,BB"}}


def chat(*parts, **fields):
    return json.dumps({"messages": [{"role": "user", "content": list(parts)}], **fields}).encode()


def text(words):
    return {"type": "text", "text": words}


def test_a_picture_is_a_session():
    first = session_of(CHAT, chat(IMAGE, text("Where?")))
    assert session_of(CHAT, chat(text("Who?"), IMAGE, OTHER, max_tokens=3)) == first
    assert session_of(CHAT, chat(OTHER, text("Where?"))) != first
    assert session_of(CHAT, chat(text("Where?"))) != session_of(CHAT, chat(text("Who?")))


def test_a_uuid_stands_for_its_picture():
    named = session_of(CHAT, chat({**IMAGE, "uuid": "a"}))
    assert session_of(CHAT, chat({"type": "image_url", "uuid": "a"})) == named


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"{}", b'{"messages": 7}', b'{"messages": [7]}', b"[" * 100_000],
    ids=["nothing", "no JSON", "a list", "no messages", "a number", "numbers", "too deep"],
)
def test_what_is_no_chat_has_one_session(body):
    assert session_of(CHAT, body) == session_of("/v1/responses", chat(IMAGE))


def test_words_of_the_command_line():
    """`serve run` hands them over as they are."""
    words = dict(model="llava-next", replicas="3", gpus="2", flags="--plugin script --seed 1")
    words["start_timeout"] = "1800"
    application = call_user_app_builder_with_args_if_necessary(app, words)
    servers = application._bound_deployment.init_args[0]._bound_deployment
    assert servers.num_replicas == 3
    assert servers.ray_actor_options["num_gpus"] == 2
    assert servers.init_args == ("llava-next", ["--plugin", "script", "--seed", "1"], 1800)


def test_a_server_prunes_unless_it_is_told_otherwise():
    assert Options(model="llava-next").flags == "--plugin script"


@pytest.fixture
def server(monkeypatch):
    """server(answer of vLLM's to an httpx request) -> a replica whose `vllm serve` answers so.

    Without an answer it is to be asked through httpx's own transport, at `replica._root`.
    """

    class Pretended:
        url = "http://127.0.0.1:5/v1"

        def __init__(self, model, *flags, start_timeout):
            assert (model, flags, start_timeout) == ("tiny", ("--plugin", "script"), 9)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    def make(answer=None):
        monkeypatch.setattr(ray_serve, "VllmServer", Pretended)
        server = Server("tiny", ["--plugin", "script"], 9)
        if answer:
            server._client._transport = httpx.MockTransport(answer)
        return server

    return make


@pytest.fixture
def asked():
    """asked(replica, or error that Ray raises, path, body) -> the reply, and the session of it.

    `prefix` is that of the application, below which the path is asked for.
    """

    def ask(server, path=CHAT, body=b"{}", prefix=""):
        sessions = []

        class Handle:
            def options(self, **options):
                sessions.extend(options.get("session_id", "").split())
                return SimpleNamespace(remote=self.remote, options=self.options)

            async def remote(self, *request):
                if isinstance(server, Exception):
                    raise server
                async for part in server.answer(*request):
                    yield part

        async def door(scope, receive, send):
            response = await Door(Handle())(Request(scope, receive))
            await response(scope, receive, send)

        async def send():
            transport = httpx.ASGITransport(door, root_path=prefix)
            async with httpx.AsyncClient(transport=transport, base_url="http://d") as client:
                return await client.post(prefix + path, content=body, headers={"x-own": "a"})

        return asyncio.run(send()), *sessions

    return ask


@pytest.mark.parametrize("prefix", ["", "/pictures"])
def test_a_request_goes_through_as_it_is(server, asked, prefix):
    seen = []

    def answer(request):
        seen.append((request.method, str(request.url), request.headers["x-own"], request.content))
        return httpx.Response(
            418, stream=httpx.ByteStream(b"tea"), headers=[("x-reply", "b"), ("x-reply", "c")]
        )

    body = chat(IMAGE)
    reply, session = asked(server(answer), CHAT + "?a=b", body, prefix)
    assert seen == [("POST", f"http://127.0.0.1:5{CHAT}?a=b", "a", body)]
    assert (reply.status_code, reply.content) == (418, b"tea")
    assert reply.headers.get_list("x-reply") == ["b", "c"]
    assert session == session_of(CHAT, body)


def test_a_server_that_is_gone(server, asked):
    def refuse(request):
        raise httpx.ConnectError("refused", request=request)

    replica = server(refuse)
    errors = RayActorError(), DeploymentUnavailableError("servers"), ReplicaUnavailableError("a")
    for gone in (replica, *errors):
        reply, _ = asked(gone)
        assert reply.status_code == 503 and reply.headers["retry-after"] == "1"
        assert reply.json()["error"]["message"] == "no server answers at the moment; try again"
    with pytest.raises(httpx.ConnectError):
        asyncio.run(replica.check_health())


def test_a_server_is_asked_as_much_at_a_time_as_ray_lets_through(server):
    """More than the 100 after which httpx would keep what comes waiting for the others."""
    many = 120

    async def go():
        together = asyncio.Barrier(many)

        async def answer(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            await together.wait()
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

        async def status(replica):
            return [part async for part in replica.answer("GET", "/v1/models", b"", [], b"")][0][0]

        async with await asyncio.start_server(answer, "127.0.0.1", 0, backlog=many) as listening:
            replica = server()
            replica._root = httpx.URL("http://{}:{}".format(*listening.sockets[0].getsockname()))
            async with replica._client, asyncio.timeout(20):
                return await asyncio.gather(*(status(replica) for _ in range(many)))

    assert asyncio.run(go()) == [204] * many


def test_only_health_must_come_soon(server, asked):
    waits = []

    def answer(request):
        waits.append((request.url.path, request.extensions["timeout"]["read"]))
        return httpx.Response(200, stream=httpx.ByteStream(b""), request=request)

    replica = server(answer)
    asked(replica)
    asyncio.run(replica.check_health())
    assert waits == [(CHAT, None), ("/health", 4)]


def test_health_is_the_servers(server):
    for status, good in ((200, True), (503, False)):
        replica = server(lambda request, status=status: httpx.Response(status, request=request))
        if good:
            asyncio.run(replica.check_health())
        else:
            with pytest.raises(httpx.HTTPStatusError):
                asyncio.run(replica.check_health())
