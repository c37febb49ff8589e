"""Times of a call, and the least that the machine would need for it."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from vllm_script.kernels.reduce_graph import MAX_DROP

from .inputs import Shape

# Each time is of at least so many calls, and the calls of each take at least so many seconds.
LEAST_CALLS, LEAST_SECONDS = 5, 0.3
FLOAT = 4


class Work(NamedTuple):
    """Of an op, what it cannot do without; of a machine, what it was seen to do in a second."""

    bytes: float
    """Every input read once, every output written once."""
    flop: float
    """Multiplications with additions."""


def work_of(op: str, shape: Shape, dtype: torch.dtype) -> Work:
    """Work of an op for all images. Rounds are those of inputs where edges do not run out."""
    tokens, dim, budget, target = shape.tokens, shape.dim, shape.budget, shape.target
    row = dim * dtype.itemsize
    rounds = _flop_of_rounds(tokens, dim, target)
    # The triangle of similarities, and a projection on all earlier picks at every step. Where the
    # pool is the budget there is nothing to choose.
    picks = Work(target * row, target**2 * dim + budget**2 * target)
    if budget == target:
        picks = Work(budget * 8, 0)
    work = {
        "norms": Work(tokens * (row + FLOAT), 2 * tokens * dim),
        "relevance": Work(tokens * (row + FLOAT), 4 * tokens * dim),
        "redundancy": Work(tokens * row, 2 * (tokens // 2) * (tokens - tokens // 2) * dim),
        "reduce_graph": Work(tokens * row, rounds),
        "greedy_map": picks,
        "gather": Work(2 * budget * row, 0),
        # The rows have to be read once for all ops together.
        "selection": Work((tokens + budget) * row, 2 * tokens * dim + rounds + picks.flop),
    }[op]
    return Work(shape.batch * work.bytes, shape.batch * work.flop)


def _flop_of_rounds(tokens: int, dim: int, target: int) -> int:
    flop, parity = 0, 0
    while tokens > target:
        num_src = (tokens - parity + 1) // 2
        flop += 2 * num_src * (tokens - num_src) * dim
        tokens -= min(math.ceil(MAX_DROP * num_src), tokens - target)
        parity = 1 - parity
    return flop


def measured_peak(device: torch.device, dtype: torch.dtype) -> Work:
    """A large copy and a large product on the spot, the best of a few."""
    on_gpu = device.type == "cuda"
    size = 1 << 30 if on_gpu else 1 << 26
    source = torch.zeros(size, dtype=torch.int8, device=device)
    copy = torch.empty_like(source)
    side = 8192 if on_gpu else 1024
    matrix = torch.randn(side, side, device=device).to(dtype)
    product = torch.empty_like(matrix)
    copying = min(timed(lambda: copy.copy_(source), device) for _ in range(5))
    multiplying = min(
        timed(lambda: torch.mm(matrix, matrix, out=product), device) for _ in range(5)
    )
    return Work(2 * size / copying, 2 * side**3 / multiplying)


def quantiles(run: Callable[[], Any], device: torch.device) -> list[float]:
    """p20, p50 and p80 in seconds, after a call to warm up."""
    run()
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < LEAST_CALLS or time.perf_counter() - begin < LEAST_SECONDS:
        times.append(timed(run, device))
    return [statistics.quantiles(times, n=10)[index] for index in (1, 4, 7)]


def timed(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call; on a GPU from its start there to its end, launches included."""
    if device.type != "cuda":
        begin = time.perf_counter()
        run()
        return time.perf_counter() - begin
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    run()
    end.record()
    end.synchronize()
    milliseconds: float = start.elapsed_time(end)
    return milliseconds / 1e3
