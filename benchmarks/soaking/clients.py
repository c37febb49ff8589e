"""The run itself: several clients at once for a given time, and a look now and then."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import httpx

from ..scrape import Scrape
from .client import Outcome, send
from .ledger import Ledger, asks_again
from .mix import Mix
from .requests import Request

IDLE_SECONDS = 120
"""Within so long after the last request, the engine must have nothing left to do."""


class Clients:
    """The clients of one server.

    Args:
        root: the server's address, without /v1.
        mix: draws what they ask.
        num_clients: how many there are at a time.
        seed: each draws from it and its own number.
    """

    def __init__(self, root: str, mix: Mix, num_clients: int, seed: int) -> None:
        self.ledger = Ledger()
        self._root, self._mix, self._num_clients, self._seed = root, mix, num_clients, seed
        # No connection is used twice: a server may close one just when the next request comes.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._http = httpx.AsyncClient(timeout=None, limits=limits, trust_env=False)

    async def run(
        self, seconds: float, every: float, look: Callable[[float, Scrape], None]
    ) -> tuple[Scrape, Scrape]:
        """Send requests for so long.

        Args:
            every: seconds between two looks.
            look: called with the seconds so far and /metrics.

        Returns:
            /metrics before the first request and after the last one.

        Raises:
            httpx.HTTPError: the server does not answer /metrics any more.
        """
        before = await self.scrape()
        started = time.monotonic()
        rngs = [random.Random(f"{self._seed} {n}") for n in range(self._num_clients)]
        clients = [asyncio.create_task(self._client(rng, started + seconds)) for rng in rngs]
        while not all(client.done() for client in clients):
            await asyncio.wait(clients, timeout=every)
            look(time.monotonic() - started, await self.scrape())
        await asyncio.gather(*clients)
        return before, await self._idle()

    async def scrape(self) -> Scrape:
        """Look at /metrics."""
        reply = await self._http.get(f"{self._root}/metrics", timeout=IDLE_SECONDS)
        return Scrape(reply.raise_for_status().text)

    async def send(self, request: Request) -> Outcome:
        """Send one request."""
        return await send(self._http, self._root, request)

    async def _client(self, rng: random.Random, end: float) -> None:
        while time.monotonic() < end:
            for request in self._mix.draw(rng):
                outcome = await self.send(request)
                if asks_again(request, outcome):
                    self.ledger.add_resent(request)
                    outcome = await self.send(request)
                self.ledger.add(request, outcome)

    async def _idle(self) -> Scrape:
        """/metrics once nothing runs and waits, or when it is too late for that."""
        deadline = time.monotonic() + IDLE_SECONDS
        while True:
            await asyncio.sleep(2)
            scrape = await self.scrape()
            busy = scrape.sum("vllm:num_requests_running") + scrape.sum("vllm:num_requests_waiting")
            if not busy or time.monotonic() > deadline:
                return scrape
