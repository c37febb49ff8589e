"""What stands before encoder instances and language models: first the images, then the answer.

A chat request with images goes to an encoder, which puts what it keeps of them into the folder that
all share, and then to a language model, which finds it there. Both get the messages as they are:
what is kept depends on the question, and both must make the same plan. (vLLM's example of such a
proxy takes the text out of what the encoder gets.) Everything else goes to a language model alone,
which has the vision tower too.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

logger = logging.getLogger("uvicorn.error")

CHAT = "/v1/chat/completions"

PLANNED_BY = (
    *("model", "messages", "script", "mm_processor_kwargs", "media_io_kwargs"),
    *("chat_template", "chat_template_kwargs", "tools", "documents"),
)
"""Fields of a chat request that the encoder's part depends on, or the rendering of its prompt."""

CONNECT_TIMEOUT = 5
"""Seconds in which an instance must take a connection; it may answer as late as it likes."""

HEALTH_TIMEOUT = 4
"""Seconds in which an instance must take a connection, and then say that it is well."""

IDLE = 2
"""Seconds after which an idle connection is closed: before the servers do, which wait for 5."""

LIFE_SIGNS = {
    "SO_KEEPALIVE": 1,
    "TCP_KEEPIDLE": 30,
    "TCP_KEEPINTVL": 15,
    "TCP_USER_TIMEOUT": 120_000,
}
"""Options of a connection, in seconds and the last one in ms: the kernel asks whether the other
machine is still there, so that one that is gone without a word is given up in two minutes. Those
that a system does not have are left out."""

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
"""Those that are passed on; HEAD goes with GET."""

HOP_BY_HOP = (b"connection", b"keep-alive", b"transfer-encoding", b"host", b"content-length")
"""Headers of one connection, which are not passed on."""


class Proxy:
    """Sends requests to encoders and language models.

    Args:
        encoders, servers: addresses of the instances, at least one of each.
    """

    def __init__(self, encoders: Sequence[str], servers: Sequence[str]) -> None:
        self._encoders, self._servers = encoders, servers
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT),
            transport=httpx.AsyncHTTPTransport(
                limits=httpx.Limits(keepalive_expiry=IDLE), socket_options=list(_life_signs())
            ),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # they are the clients'
        )

    @property
    def app(self) -> Starlette:
        """The application, which closes its connections when it ends."""

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            async with self._client:
                yield

        routes = [
            Route("/health", self.health),
            Route(CHAT, _while_wanted(self.chat), methods=["POST"]),
            Route("/{path:path}", _while_wanted(self.anything), methods=METHODS),
        ]
        refusals = {httpx.InvalidURL: _no_path}
        return Starlette(routes=routes, lifespan=lifespan, exception_handlers=refusals)

    async def health(self, request: Request) -> Response:
        """200 where an encoder and a language model answer, else 503."""
        sides = self._encoders, self._servers
        up = await asyncio.gather(*(self._any_up(urls) for urls in sides))
        return Response(status_code=200 if all(up) else 503)

    async def chat(self, request: Request) -> Response:
        """A chat request: its images are encoded, then it is answered."""
        body = await request.body()
        try:
            fields = json.loads(body)
            items = list(_items(fields["messages"]))
            about = about_of(fields["messages"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return await self._forward(request, body, b"")  # vLLM says what is wrong with it
        if items:
            planned = {name: fields[name] for name in PLANNED_BY if name in fields}
            planned |= {"max_completion_tokens": 1, "stream": False}
            if "tools" in planned:  # an encoder calls none, and has no flags to do so
                planned["tool_choice"] = "none"
            refusal = await self._encode(request, json.dumps(planned).encode(), about)
            if refusal is not None:
                return refusal
        return await self._forward(request, body, about)

    async def anything(self, request: Request) -> Response:
        """Any other request: a language model answers it, always the same one.

        So a response finds the one before it.
        """
        return await self._forward(request, await request.body(), b"")

    async def _encode(self, request: Request, body: bytes, about: bytes) -> Response | None:
        """Have an encoder encode a request's images; the response where it does not."""
        reply = await self._send(self._encoders, "encoder", request, body, about)
        if isinstance(reply, Response):
            return reply
        try:
            content = b"".join([chunk async for chunk in reply.aiter_raw()])
        except httpx.TransportError as error:
            return unavailable("encoder", {str(reply.url): error})
        finally:
            await reply.aclose()
        if reply.status_code == 200:
            return None
        return _with_headers(Response(content, reply.status_code), reply)

    async def _forward(self, request: Request, body: bytes, about: bytes) -> Response:
        """The answer of a language model, passed on as it comes."""
        reply = await self._send(self._servers, "language model", request, body, about)
        if isinstance(reply, Response):
            return reply

        async def content() -> AsyncIterator[bytes]:
            try:
                async for chunk in reply.aiter_raw():
                    yield chunk
            finally:
                await reply.aclose()

        return _with_headers(StreamingResponse(content(), reply.status_code), reply)

    async def _send(
        self, urls: Sequence[str], what: str, request: Request, body: bytes, about: bytes
    ) -> httpx.Response | Response:
        """A request's reply, of which the body is still to come.

        Args:
            urls: instances, of which one that refuses connections is passed over.
            what: they are, for the message of an error.
            about: the first image, or the first two messages where there is none: requests about
                the same go to the same instance, whose caches know it.

        Returns:
            httpx's response; one for the client, a 503, where none answers.
        """
        problems: dict[str, Exception] = {}
        for url in _by_affinity(urls, about):
            headers = passed_on(request.headers.raw)
            sent = self._client.build_request(
                request.method, _target(url, request), content=body, headers=headers
            )
            try:
                return await self._client.send(sent, stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                problems[url] = error
            except httpx.TransportError as error:  # it may have begun, so nobody else does
                return unavailable(what, {url: error})
        return unavailable(what, problems)

    async def _any_up(self, urls: Sequence[str]) -> bool:
        """Whether one of these instances says that it is well."""
        return any(await asyncio.gather(*map(self._is_up, urls)))

    async def _is_up(self, url: str) -> bool:
        """Whether an instance says that it is well."""
        try:
            reply = await self._client.get(url + "/health", timeout=HEALTH_TIMEOUT)
            return reply.status_code == 200
        except httpx.TransportError:
            return False


def _life_signs() -> Iterator[tuple[int, int, int]]:
    """The options of a connection, as `setsockopt` takes them."""
    for name, value in LIFE_SIGNS.items():
        if hasattr(socket, name):
            level = socket.SOL_SOCKET if name.startswith("SO_") else socket.IPPROTO_TCP
            yield level, getattr(socket, name), value


def _while_wanted(
    endpoint: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint, which stops when its client goes, so that no instance works for nobody."""

    async def stopping(request: Request) -> Response:
        await request.body()  # all that comes after it is word that the client has gone
        work = asyncio.ensure_future(endpoint(request))
        gone = asyncio.ensure_future(request.receive())
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            return work.result() if work.done() else Response(status_code=499)
        finally:
            work.cancel()
            gone.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    return stopping


def about_of(messages: Any) -> bytes:
    """What chat messages are about: their first image, or the first two where there is none.

    A server that has answered a request about the same has it in its caches.

    Raises:
        TypeError, AttributeError: they are no chat messages.
    """
    first = next(_items(messages), None)
    known = messages[:2] if first is None else first.get("uuid") or first
    return json.dumps(known).encode()


def _items(messages: Any) -> Iterator[dict[str, Any]]:
    """The images and videos of chat messages."""
    for message in messages:
        parts = message.get("content")
        for part in parts if isinstance(parts, list) else ():
            if any(name.startswith(("image", "video")) for name in (part.get("type") or "", *part)):
                yield part


def _by_affinity(urls: Sequence[str], about: bytes) -> list[str]:
    """Instances in the order in which a request about that is sent to them.

    Highest random weight first: when instances come or go, only their own share moves.
    """
    return sorted(urls, key=lambda url: hashlib.blake2b(url.encode() + b" " + about).digest())


def _target(url: str, request: Request) -> httpx.URL:
    """Where a request goes at an instance: the path and query are below its address, as they came.

    Raises:
        httpx.InvalidURL: the path is none, or httpx would ask for another one.
    """
    address, path, query = httpx.URL(url), request.scope["raw_path"], request.scope["query_string"]
    asked = address.raw_path.rstrip(b"/") + path + (b"?" + query if query else b"")
    target = address.copy_with(raw_path=asked)
    if target.raw_path != asked or not path.startswith(b"/"):
        raise httpx.InvalidURL("dot segments and unescaped characters are not passed on")
    return target


def passed_on(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers that are passed on, as they came: one may be there twice, or be no ASCII."""
    return [(name, value) for name, value in headers if name.lower() not in HOP_BY_HOP]


def _with_headers(response: Response, reply: httpx.Response) -> Response:
    """A response to the client, with the headers of an instance's reply."""
    response.raw_headers += passed_on([(name.lower(), value) for name, value in reply.headers.raw])
    return response


def unavailable(what: str, problems: Mapping[str, Exception]) -> Response:
    """The response where no instance answers: the client may ask again.

    It does not name the instances, which are nobody's business outside; the log does.

    Args:
        what: the instances are.
        problems: what happened, by their addresses.
    """
    logger.warning("no %s answers: %s", what, dict(problems))
    message = f"no {what} answers at the moment; try again"
    return _error(503, "ServiceUnavailable", message, {"Retry-After": "1"})


async def _no_path(request: Request, error: Exception) -> Response:
    """The response to a request whose path cannot be that of an address."""
    return _error(
        400, "BadRequest", f"{request.url.path} is no path that can be asked for: {error}"
    )


def _error(status: int, kind: str, message: str, headers: dict[str, str] | None = None) -> Response:
    """An error as vLLM words its own."""
    error = {"message": message, "type": kind, "param": None, "code": status}
    return JSONResponse({"error": error}, status, headers)
