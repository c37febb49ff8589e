"""Looks at a server under load now and then: its /metrics, and the memory of its processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TextIO

import psutil
from tqdm import tqdm

from ..scrape import Scrape
from .ledger import Ledger

MIB = 2**20


class Recorder:
    """Writes a line for each look.

    Args:
        server: its first process; None where that is not known.
        lines: where to write.
        bar: of seconds.
    """

    def __init__(
        self, ledger: Ledger, server: psutil.Process | None, lines: TextIO, bar: tqdm
    ) -> None:
        self._ledger, self._server, self._lines, self._bar = ledger, server, lines, bar
        self.samples: list[dict[str, Any]] = []
        self._shown = 0

    def look(self, seconds: float, scrape: Scrape) -> None:
        """Record what there is to see after so many seconds."""
        sample = {
            "seconds": round(seconds, 1),
            "requests": self._ledger.sent.total(),
            "errors": self._ledger.num_errors,
            "memory_mib": memory_mib(self._server) if self._server else {},
            **gauges(scrape),
        }
        self.samples.append(sample)
        print(json.dumps(sample), file=self._lines, flush=True)
        self._bar.update(min(round(seconds), self._bar.total) - self._bar.n)
        for error in self._ledger.errors[self._shown :]:
            self._bar.write(error)
        self._shown = len(self._ledger.errors)
        text = f"{sample['requests']} requests, {sample['errors']} errors"
        self._bar.set_postfix_str(f"{text}, {sum(sample['memory_mib'].values()):.0f} MiB")

    @property
    def sizes(self) -> list[tuple[int, float]]:
        """(requests so far, MiB of all processes) of every look."""
        return [(line["requests"], sum(line["memory_mib"].values())) for line in self.samples]


def memory_mib(server: psutil.Process) -> dict[str, float]:
    """Memory of a server's processes in MiB by name: anonymous and shared, without mapped files.

    Of pages that processes share, each has its part. Files are the libraries' code: other programs
    on the machine share it too, and what they do would show.
    """
    sizes: dict[str, float] = {}
    for process in (server, *server.children(recursive=True)):
        try:
            name = process.name()
            size = _resident(process.pid) / MIB
        except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            continue
        sizes[name] = sizes.get(name, 0) + size
    return {name: round(size, 2) for name, size in sizes.items()}


def _resident(pid: int) -> int:
    """Bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    counted = [line for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:"))]
    return sum(1024 * int(line.split()[1]) for line in counted)


def gauges(scrape: Scrape) -> dict[str, Any]:
    """What a line of samples has of /metrics."""
    caches = scrape.by("script_cache_bytes", "cache")
    return {
        "running": scrape.sum("vllm:num_requests_running"),
        "waiting": scrape.sum("vllm:num_requests_waiting"),
        "kv_cache_usage": round(scrape.sum("vllm:kv_cache_usage_perc"), 4),
        "preemptions": scrape.sum("vllm:num_preemptions_total"),
        "images": scrape.sum("script_images_total"),
        "cache_mib": {name: round(size / MIB, 2) for name, size in caches.items()},
    }
