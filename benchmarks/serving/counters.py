"""What a server counts while a block runs: its growth, its peaks, and the size of its KV cache."""

from __future__ import annotations

import threading
import time

from .. import scrape
from ..scrape import Scrape

LOOK_SECONDS = 0.5
COUNT_SECONDS = 10
"""Within so long after its answer, a server must have counted a request."""


def when_counted(root: str, before: Scrape, requests: int) -> dict[str, float]:
    """What each metric grew by since `before`, once the server has counted all requests of a block.

    Raises:
        RuntimeError: the server has not counted them in time.
    """
    old, deadline = before.totals, time.monotonic() + COUNT_SECONDS
    while True:
        now = scrape.fetch(root).totals
        grown = {name: value - old.get(name, 0.0) for name, value in now.items()}
        counted = grown.get("vllm:request_prompt_tokens_count", 0)
        if counted == requests:
            return grown
        if counted > requests or time.monotonic() > deadline:
            raise RuntimeError(
                f"{root}/metrics counted {counted:.0f} requests for {requests} that were sent: "
                "somebody else asks this server, or it does not count"
            )
        time.sleep(0.1)


def kv_cache_tokens(found: Scrape) -> int | None:
    """How many tokens the KV cache holds, if the server says."""
    name = "vllm:cache_config_info"
    known = next((sample.labels for sample in found.samples if sample.name == name), {})
    sizes = [known.get(label, "") for label in ("num_gpu_blocks", "block_size")]
    return int(sizes[0]) * int(sizes[1]) if all(size.isdigit() for size in sizes) else None


class Peaks:
    """Largest values that were seen while a `with` block ran; two looks a second."""

    def __init__(self, root: str) -> None:
        self.running = 1
        """Most requests in the engine at a time; nobody looks for a single one."""
        self.kv_usage = 0.0
        """Largest part of the KV cache in use."""
        self._root = root
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Peaks:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(LOOK_SECONDS):
            found = scrape.fetch(self._root)
            self.running = max(self.running, int(found.sum("vllm:num_requests_running")))
            self.kv_usage = max(self.kv_usage, found.totals.get("vllm:kv_cache_usage_perc", 0.0))
