"""How long the worker's parts take for each item, measured on the device without waiting for it."""

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
        self._events: deque[tuple[str, int, Any, Any]] = deque(maxlen=MOST_KEPT)

    @contextmanager
    def measure(self, name: str, num_items: int = 1) -> Iterator[None]:
        """Measure what the block does, on a GPU what it enqueues.

        Args:
            num_items: items that it is done for together; each takes an equal part of the time.
        """
        if self._on_cuda:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            yield
            end.record()
            self._events.append((name, num_items, start, end))
            self._read_finished()
        else:
            started = time.perf_counter()
            yield
            self._add(name, num_items, time.perf_counter() - started)

    def take(self) -> dict[str, list[float]]:
        """Seconds by name, oldest first, of what is finished; they are then forgotten."""
        self._read_finished()
        taken = {name: list(seconds) for name, seconds in self._seconds.items()}
        self._seconds.clear()
        return taken

    def _read_finished(self) -> None:
        """Turn events of what the GPU is done with into seconds: events are objects of the driver,
        so no more of them live than there is work that waits for the GPU."""
        while self._events and self._events[0][-1].query():
            name, num_items, start, end = self._events.popleft()
            self._add(name, num_items, start.elapsed_time(end) / 1000)

    def _add(self, name: str, num_items: int, seconds: float) -> None:
        """Note what each of some items took, of the seconds of all."""
        kept = self._seconds.setdefault(name, deque(maxlen=MOST_KEPT))
        kept.extend([seconds / num_items] * num_items)
