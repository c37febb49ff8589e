"""A look at a server under load: its /metrics, and the memory of its processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil

from ..scrape import Scrape
from .ledger import Ledger

MIB = 2**20


def sample(
    seconds: float, ledger: Ledger, server: psutil.Process, scrape: Scrape
) -> dict[str, Any]:
    """A line of samples.jsonl.

    Args:
        seconds: since the run has begun.
        server: its first process.
    """
    caches = scrape.by("script_cache_bytes", "cache")
    return {
        "seconds": round(seconds, 1),
        "requests": ledger.statuses.total(),
        "errors": len(ledger.errors),
        "memory_mib": _memory_mib(server),
        "running": scrape.sum("vllm:num_requests_running"),
        "waiting": scrape.sum("vllm:num_requests_waiting"),
        "kv_cache_usage": round(scrape.sum("vllm:kv_cache_usage_perc"), 4),
        "preemptions": scrape.sum("vllm:num_preemptions_total"),
        "images": scrape.sum("script_images_total"),
        "cache_bytes": {name: int(size) for name, size in caches.items()},
    }


def _memory_mib(server: psutil.Process) -> dict[str, float]:
    """Memory of a server's processes in MiB by name: anonymous and shared, without mapped files.

    Of pages that processes share, each has its part. Files are the libraries' code: other programs
    on the machine share it too, and what they do would show.
    """
    sizes: dict[str, float] = {}
    for process in (server, *server.children(recursive=True)):
        try:
            name = process.name()
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            continue
        counted = [line for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:"))]
        kib = sum(int(line.split()[1]) for line in counted)
        sizes[name] = sizes.get(name, 0) + kib / 1024
    return {name: round(size, 2) for name, size in sizes.items()}
