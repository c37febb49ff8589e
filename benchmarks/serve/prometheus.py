"""What a server says of itself: /metrics before, during and after a block."""

from __future__ import annotations

import re
import threading
import time
import urllib.request
from collections import defaultdict
from types import TracebackType

Metrics = dict[str, float]
"""Name -> value, summed over labels."""

SAMPLE_SECONDS = 0.5
_LINE = re.compile(r"^([A-Za-z_:][\w:]*)(\{.*\})? (\S+)$")


def parse(text: str) -> Metrics:
    """Read the Prometheus text format, without the buckets of histograms."""
    metrics: Metrics = defaultdict(float)
    for line in text.splitlines():
        match = _LINE.match(line)
        if match and not match[1].endswith("_bucket"):
            metrics[match[1]] += float(match[3])
    return dict(metrics)


def kv_cache_tokens(text: str) -> int | None:
    """How many tokens the KV cache holds, if the server says."""
    found = [re.search(rf'[{{,]{name}="(\d+)"', text) for name in ("num_gpu_blocks", "block_size")]
    return int(found[0][1]) * int(found[1][1]) if found[0] and found[1] else None


def fetch(root: str) -> str:
    """The text of ROOT/metrics. The plugin asks its workers for it, between two of their steps."""
    with urllib.request.urlopen(f"{root}/metrics", timeout=300) as reply:
        return reply.read().decode()


def change(before: Metrics, after: Metrics) -> Metrics:
    """What counters and histograms have grown by."""
    return {name: value - before.get(name, 0.0) for name, value in after.items()}


def when_counted(root: str, before: Metrics, requests: int, seconds: float = 10) -> Metrics:
    """The change since `before`, once it has all of a block's requests.

    Raises:
        RuntimeError: the server has not counted them in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        grown = change(before, parse(fetch(root)))
        counted = grown.get("vllm:request_prompt_tokens_count", 0)
        if counted == requests:
            return grown
        if counted > requests or time.monotonic() > deadline:
            raise RuntimeError(
                f"{root}/metrics counted {counted:.0f} requests for {requests} that were sent: "
                "somebody else asks this server, or it does not count"
            )
        time.sleep(0.1)


class Peaks:
    """Largest values that were seen while a `with` block ran; two looks a second."""

    def __init__(self, root: str) -> None:
        self.running = 1
        """Requests in the engine at a time; nobody looks for a single one."""
        self.kv_usage = 0.0
        """Part of the KV cache in use."""
        self._root = root
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Peaks:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            metrics = parse(fetch(self._root))
            self.running = max(self.running, int(metrics.get("vllm:num_requests_running", 0)))
            self.kv_usage = max(self.kv_usage, metrics.get("vllm:kv_cache_usage_perc", 0.0))
