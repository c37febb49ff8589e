"""Several servers behind one address of Ray Serve, where one picture's questions go to one of them.

    serve run vllm_script.server.deploy.ray_serve:app model=llava-next replicas=2 gpus=1

A replica is a whole `vllm serve`, started below Ray's actor: its routes, flags and answers are
vLLM's. Requests are told apart by what they are about, their first picture, and that is the session
by which Ray's consistent-hash router chooses a replica. So the second question about a picture
finds what the first one has left in the caches; when a replica goes, its pictures go to the others.
A request that was with it ends in a 503 with `Retry-After`, or in a stream that breaks off, and
never in another answer.
"""

import hashlib
import json
import shlex
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from typing import Any

import httpx
from pydantic import BaseModel
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from vllm_script.server.launch import VllmServer
from vllm_script.server.proxy import (
    CHAT,
    CONNECT_TIMEOUT,
    HEALTH_TIMEOUT,
    IDLE,
    about_of,
    passed_on,
    unavailable,
)

Headers = list[tuple[bytes, bytes]]

GONE = (RayActorError, DeploymentUnavailableError, ReplicaUnavailableError)
"""What Ray raises where no server answers a request."""


class Options(BaseModel):
    """What `serve run` is given, as NAME=VALUE."""

    model: str
    """What `vllm serve` is given."""
    flags: str = "--plugin script"
    """Further arguments of every `vllm serve`, as in a shell."""
    replicas: int = 2
    """Servers."""
    cpus: float = 1
    """Processors that Ray reserves for each server."""
    gpus: float = 0
    """GPUs that Ray reserves for each server, and lets it see."""
    at_once: int = 256
    """Requests that one server has at a time; what comes beyond goes to the next one."""
    start_timeout: float = 600
    """Seconds in which a server must have loaded its model."""


def app(options: Options) -> serve.Application:
    """The application: servers, and what stands before them."""
    servers = serve.deployment(
        num_replicas=options.replicas,
        max_ongoing_requests=options.at_once,
        ray_actor_options={"num_cpus": options.cpus, "num_gpus": options.gpus},
        request_router_config=RequestRouterConfig(request_router_class=ConsistentHashRouter),
    )(Server)
    door = serve.deployment(max_ongoing_requests=options.replicas * options.at_once)(Door)
    flags = shlex.split(options.flags)
    return door.bind(servers.bind(options.model, flags, options.start_timeout))


class Server:
    """A replica: one `vllm serve` for as long as Ray's actor lives.

    Args:
        model: what `vllm serve` is given.
        flags: its further arguments.
        start_timeout: seconds to wait for it to answer.
    """

    def __init__(self, model: str, flags: Sequence[str], start_timeout: float) -> None:
        self._running = ExitStack()
        child = VllmServer(model, *flags, start_timeout=start_timeout)
        server = self._running.enter_context(child)
        self._root = httpx.URL(server.url.removesuffix("/v1"))
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT),
            limits=httpx.Limits(keepalive_expiry=IDLE),  # Ray counts the requests
        )

    async def check_health(self) -> None:
        """Ray asks now and then, and starts another replica where this fails."""
        health = self._root.copy_with(path="/health")
        (await self._client.get(health, timeout=HEALTH_TIMEOUT)).raise_for_status()

    async def answer(
        self, method: str, path: str, query: bytes, headers: Headers, body: bytes
    ) -> AsyncIterator[tuple[int, Headers] | bytes]:
        """A request's status and headers, and then its body as it comes."""
        target = self._root.copy_with(path=path, query=query or None)
        sent = self._client.build_request(method, target, content=body, headers=headers)
        try:
            reply = await self._client.send(sent, stream=True)
        except httpx.TransportError as error:
            refusal = unavailable("server", {str(self._root): error})
            yield refusal.status_code, refusal.raw_headers
            yield bytes(refusal.body)
            return
        try:
            own = [(name.lower(), value) for name, value in reply.headers.raw]
            yield reply.status_code, passed_on(own)
            async for chunk in reply.aiter_raw():
                yield chunk
        finally:
            await reply.aclose()

    def __del__(self) -> None:
        self._running.close()


class Door:
    """What answers HTTP: it reads a request, and hands it to the server whose caches know it."""

    def __init__(self, servers: DeploymentHandle) -> None:
        self._servers = servers.options(stream=True, method_name="answer")

    async def __call__(self, request: Request) -> Response:
        body = await request.body()
        prefix = request.scope.get("root_path", "")  # Ray's route prefix, where it has one
        path = request.url.path.removeprefix(prefix)
        asked = (request.method, path, request.url.query.encode())
        server = self._servers.options(session_id=session_of(path, body))
        parts: Any = server.remote(*asked, passed_on(request.headers.raw), body)
        try:
            status, headers = await anext(parts)
        except GONE as error:
            return unavailable("server", {"replica": error})
        response = StreamingResponse(parts, status)
        response.raw_headers = headers
        return response


def session_of(path: str, body: bytes) -> str:
    """A digest of what a request is about; all but chats are about the same.

    So a response finds the one before it.
    """
    try:
        about = about_of(json.loads(body)["messages"]) if path == CHAT else b""
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        about = b""  # vLLM says what is wrong with it
    return hashlib.blake2b(about, digest_size=16).hexdigest()
