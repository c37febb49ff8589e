"""The run itself: several clients and an operator for a given time, and a look now and then."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import httpx

from ..scrape import Scrape
from .client import Request, send
from .ledger import Ledger, asks_again
from .mix import Mix

RELOAD = (
    Request("pause", {}, "/pause?mode=wait"),
    Request("reload of the weights", {"method": "reload_weights"}, "/collective_rpc"),
    Request("resume", {}, "/resume"),
)
"""What the operator sends while clients ask, on a server with `VLLM_SERVER_DEV_MODE`; the weights
are those that are loaded. The pause empties vLLM's caches: without it vLLM's scheduler would count
on what its worker forgets when it reloads."""
IDLE_SECONDS = 120
"""Within so long after the last request, the engine must have nothing left to do."""


def http_client(root: str) -> httpx.AsyncClient:
    """Sends the requests of all clients; `root`: the server's address, without /v1."""
    # No connection is used twice: a server may close one just when the next request comes.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.AsyncClient(base_url=root, timeout=None, limits=limits, trust_env=False)


async def run_clients(
    http: httpx.AsyncClient,
    mix: Mix,
    ledger: Ledger,
    rngs: list[random.Random],
    seconds: float,
    reloads: int,
    every: float,
    look: Callable[[float, Scrape], None],
) -> tuple[Scrape, Scrape]:
    """Send requests for so long.

    Args:
        ledger: what was sent and what came back is added to it.
        rngs: one for each client, which draws its requests from it.
        reloads: of the weights, at equal distances.
        every: seconds between two looks.
        look: called with the seconds so far and /metrics.

    Returns:
        /metrics before the first request and after the last one.

    Raises:
        httpx.HTTPError: the server does not answer /metrics any more.
    """
    before = await _scrape(http)
    started = time.monotonic()
    clients = [asyncio.create_task(_client(http, mix, ledger, r, started + seconds)) for r in rngs]
    clients.append(asyncio.create_task(_operator(http, ledger, seconds / (reloads + 1), reloads)))
    while not all(client.done() for client in clients):
        await asyncio.wait(clients, timeout=every)
        look(time.monotonic() - started, await _scrape(http))
    await asyncio.gather(*clients)
    return before, await _when_idle(http)


async def _client(
    http: httpx.AsyncClient, mix: Mix, ledger: Ledger, rng: random.Random, end: float
) -> None:
    while time.monotonic() < end:
        for request in mix.draw(rng):
            outcome = await send(http, request)
            if asks_again(request, outcome):
                ledger.add_resent(request)
                outcome = await send(http, request)
            ledger.add(request, outcome)


async def _operator(http: httpx.AsyncClient, ledger: Ledger, distance: float, reloads: int) -> None:
    """Reload the weights so often; `distance`: seconds between two times."""
    for _ in range(reloads):
        await asyncio.sleep(distance)
        for request in RELOAD:
            ledger.add(request, await send(http, request))


async def _when_idle(http: httpx.AsyncClient) -> Scrape:
    """/metrics once nothing runs and waits, or when it is too late for that."""
    deadline = time.monotonic() + IDLE_SECONDS
    while True:
        await asyncio.sleep(2)
        scrape = await _scrape(http)
        busy = scrape.sum("vllm:num_requests_running") + scrape.sum("vllm:num_requests_waiting")
        if not busy or time.monotonic() > deadline:
            return scrape


async def _scrape(http: httpx.AsyncClient) -> Scrape:
    reply = await http.get("/metrics", timeout=IDLE_SECONDS)
    return Scrape(reply.raise_for_status().text)
