"""How long the worker's parts take, measured on the device without waiting for it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

MOST_KEPT = 65_536
"""Durations of each part that are kept until they are taken; beyond it the oldest are lost."""


class Timers:
    """Durations by name, until they are taken."""

    def __init__(self, device: torch.device | str) -> None:
        self._on_cuda = torch.device(device).type == "cuda"
        self._seconds: dict[str, deque[float]] = {}
        self._events: deque[tuple[str, Any, Any]] = deque(maxlen=MOST_KEPT)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Measure what the block does, on a GPU what it enqueues."""
        if self._on_cuda:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            yield
            end.record()
            self._events.append((name, start, end))
            self._read_finished()
        else:
            started = time.perf_counter()
            yield
            self._add(name, time.perf_counter() - started)

    def take(self) -> dict[str, list[float]]:
        """Seconds by name, oldest first, of what is finished; they are then forgotten."""
        self._read_finished()
        taken = {name: list(seconds) for name, seconds in self._seconds.items()}
        self._seconds.clear()
        return taken

    def _read_finished(self) -> None:
        """Turn events of what the GPU is done with into seconds: events are objects of the driver,
        so no more of them live than there is work that waits for the GPU."""
        while self._events and self._events[0][2].query():
            name, start, end = self._events.popleft()
            self._add(name, start.elapsed_time(end) / 1000)

    def _add(self, name: str, seconds: float) -> None:
        self._seconds.setdefault(name, deque(maxlen=MOST_KEPT)).append(seconds)
