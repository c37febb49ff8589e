"""Times of a call, and the least that the machine would need for it."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from vllm_script.kernels.reduce_graph import MAX_DROP

from .inputs import Shape

ROUNDS, ROUND_SECONDS, MOST_CALLS = 7, 0.03, 200
"""A time is the median of so many rounds. The calls of a round are enqueued without waiting: as
many as take so long, and no more than that."""
COLD_CALLS = 15
LONG_SECONDS, FEW = 0.2, 3
"""A call that takes longer is made only so often where others are made 7 or 15 times."""
FLUSHED_TIMES = 4
"""What is overwritten before a call from a cold cache, in sizes of the L2 cache."""
MOST_FLUSHES = 50
FLOAT = 4


class Times(NamedTuple):
    """Seconds of a call."""

    p20: float
    p50: float
    p80: float
    cold: float | None = None
    """From an L2 cache without its inputs; None on a CPU."""
    host: float | None = None
    """Until the call is enqueued; None on a CPU."""


class Work(NamedTuple):
    """Of an op, what it cannot do without; of a machine, what it was seen to do in a second."""

    bytes: float
    """Every input read once, every output written once."""
    flop: float
    """Multiplications with additions."""


def work_of(op: str, shape: Shape, dtype: torch.dtype) -> Work:
    """Work of an op for all images. Rounds are those of inputs where edges do not run out."""
    tokens, dim, budget, target = shape.tokens, shape.dim, shape.budget, shape.target
    row, pairs = dim * dtype.itemsize, tokens * (tokens + 1) // 2
    in_rounds = _pairs_of_rounds(tokens, target)
    products = Work(tokens * row + pairs * FLOAT, 2 * pairs * dim)
    # Of every pick its similarities, and a projection on all earlier picks. Where the pool is the
    # budget there is nothing to choose.
    picks = Work(budget * target * FLOAT, budget**2 * target)
    if budget == target:
        picks = Work(budget * 8, 0)
    work = {
        "norms": Work(tokens * (row + FLOAT), 2 * tokens * dim),
        "relevance": Work(tokens * (row + FLOAT), 4 * tokens * dim),
        "similarity": products,
        "reduce_graph": Work(in_rounds * FLOAT, in_rounds),
        "greedy_map": picks,
        # Of every pick its similarities; before the first one all pairs.
        "farthest_first": Work((pairs + budget * tokens) * FLOAT, 2 * budget * tokens),
        "greedy_cover": Work((pairs + budget * tokens) * FLOAT, 4 * pairs + 4 * budget * tokens),
        "gather": Work(2 * budget * row, 0),
        # The rows have to be read once for all ops together.
        "selection": Work((tokens + budget) * row, products.flop + in_rounds + picks.flop),
    }[op]
    return Work(shape.batch * work.bytes, shape.batch * work.flop)


def _pairs_of_rounds(tokens: int, target: int) -> int:
    """Pairs of src and dst, of all rounds together."""
    pairs, parity = 0, 0
    while tokens > target:
        num_src = (tokens - parity + 1) // 2
        pairs += num_src * (tokens - num_src)
        tokens -= min(math.ceil(MAX_DROP * num_src), tokens - target)
        parity = 1 - parity
    return pairs


def product_flop(shape: Shape) -> float:
    """Flop of the whole product of each image's rows with themselves, as cuBLAS computes it."""
    return 2.0 * shape.batch * shape.tokens**2 * shape.dim


def measured_peak(device: torch.device, dtype: torch.dtype) -> Work:
    """A large copy and a large product on the spot."""
    on_gpu = device.type == "cuda"
    size = 1 << 30 if on_gpu else 1 << 26
    source = torch.zeros(size, dtype=torch.int8, device=device)
    copy = torch.empty_like(source)
    side = 8192 if on_gpu else 1024
    matrix = torch.randn(side, side, device=device).to(dtype)
    product = torch.empty_like(matrix)
    copying = measured(lambda: copy.copy_(source), device).p20
    multiplying = measured(lambda: torch.mm(matrix, matrix, out=product), device).p20
    return Work(2 * size / copying, 2 * side**3 / multiplying)


def measured(run: Callable[[], Any], device: torch.device) -> Times:
    """Time a call, after one that compiles it.

    On a GPU its launches overlap with the work of the call before, as they do in a server that does
    not wait. So p50 is what the GPU takes, or the host if that takes longer.
    """
    run()
    if device.type != "cuda":
        return _measured_on_cpu(run)
    each = _enqueued(run, 1)
    long = each > LONG_SECONDS
    calls = 1 if long else min(MOST_CALLS, math.ceil(ROUND_SECONDS / each))
    warm = [_enqueued(run, calls) for _ in range(FEW if long else ROUNDS)]
    host = statistics.median(_host(run) for _ in range(FEW if long else COLD_CALLS))
    cold = statistics.median(_cold(run, device, host, FEW if long else COLD_CALLS))
    return Times(*_quantiles(warm), cold, host)


def _measured_on_cpu(run: Callable[[], Any]) -> Times:
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < FEW or (
        time.perf_counter() - begin < ROUNDS * ROUND_SECONDS and len(times) < MOST_CALLS
    ):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return Times(*_quantiles(times))


def _quantiles(times: Sequence[float]) -> tuple[float, float, float]:
    """p20, p50 and p80, inside what was measured."""
    tenths = statistics.quantiles(times, n=10, method="inclusive")
    return tenths[1], tenths[4], tenths[7]


def _enqueued(run: Callable[[], Any], calls: int) -> float:
    """Seconds of a call between two events, with all of them enqueued before anybody waits."""
    start, end = _events()
    torch.cuda.synchronize()
    start.record()
    for _ in range(calls):
        run()
    end.record()
    torch.cuda.synchronize()
    return _seconds(start, end) / calls


def _host(run: Callable[[], Any]) -> float:
    """Seconds until a call returns, with nothing before it in the queue."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _cold(run: Callable[[], Any], device: torch.device, host: float, calls: int) -> list[float]:
    """Seconds of each of some calls, with other memory in the L2 cache before each.

    The GPU overwrites that memory for twice as long as the host takes to enqueue a call, so that it
    does not wait for launches.
    """
    size = torch.cuda.get_device_properties(device).L2_cache_size
    other = torch.empty(FLUSHED_TIMES * size, dtype=torch.int8, device=device)
    other.zero_()
    flushes = num_flushes(host, _enqueued(other.zero_, 10))
    events = []
    for _ in range(calls):
        for _ in range(flushes):
            other.zero_()
        start, end = _events()
        start.record()
        run()
        end.record()
        events.append((start, end))
    torch.cuda.synchronize()
    return [_seconds(start, end) for start, end in events]


def num_flushes(host: float, flush: float) -> int:
    """How often memory is overwritten before a call.

    Args:
        host: seconds that the host takes to enqueue the call.
        flush: seconds that the GPU takes to overwrite it once.
    """
    return min(MOST_FLUSHES, max(1, math.ceil(2 * host / flush)))


def _events() -> tuple[torch.cuda.Event, torch.cuda.Event]:
    return torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)


def _seconds(start: torch.cuda.Event, end: torch.cuda.Event) -> float:
    milliseconds: float = start.elapsed_time(end)
    return milliseconds / 1e3
