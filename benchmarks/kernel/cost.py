"""Bytes and operations that an op cannot do without, and what the machine does in a second."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch

from vllm_script.kernels.reduce_graph import MAX_DROP

FLOAT = 4


@dataclass(frozen=True)
class Cost:
    """Every input read once, every output written once, and multiplications with additions."""

    bytes: int
    flop: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.bytes + other.bytes, self.flop + other.flop)


@dataclass(frozen=True)
class Peak:
    """What this machine was seen to do."""

    bytes_per_s: float
    flop_per_s: float


def cost_of(
    op: str, tokens: int, dim: int, budget: int, target: int, batch: int, dtype: torch.dtype
) -> Cost:
    """Cost of an op for all images. Rounds are those of inputs where edges do not run out."""
    row = dim * dtype.itemsize
    rows = Cost(tokens * row, 0)
    costs = {
        "norms": Cost(tokens * (row + FLOAT), 2 * tokens * dim),
        "relevance": Cost(tokens * (row + FLOAT), 4 * tokens * dim),
        "redundancy": rows + Cost(0, 2 * (tokens // 2) * (tokens - tokens // 2) * dim),
        "reduce_graph": rows + Cost(0, _flop_of_rounds(tokens, dim, target)),
        # The triangle of similarities, and a projection on all earlier picks at every step. Where
        # the pool is the budget there is nothing to choose.
        "greedy_map": Cost(target * row, target**2 * dim + budget**2 * target)
        if budget < target
        else Cost(budget * 8, 0),
        "gather": Cost(2 * budget * row, 0),
    }
    # The rows have to be read once for all ops together.
    whole = rows + Cost(budget * row, 0)
    for part in ("norms", "reduce_graph", "greedy_map"):
        whole += Cost(0, costs[part].flop)
    cost = costs.get(op, whole)
    return Cost(batch * cost.bytes, batch * cost.flop)


def _flop_of_rounds(tokens: int, dim: int, target: int) -> int:
    flop, parity = 0, 0
    while tokens > target:
        num_src = (tokens - parity + 1) // 2
        flop += 2 * num_src * (tokens - num_src) * dim
        tokens -= min(math.ceil(MAX_DROP * num_src), tokens - target)
        parity = 1 - parity
    return flop


def measured_peak(device: torch.device, dtype: torch.dtype) -> Peak:
    """A large copy and a large product on the spot, the best of a few."""
    on_gpu = device.type == "cuda"
    size = 1 << 30 if on_gpu else 1 << 26
    source = torch.zeros(size, dtype=torch.int8, device=device)
    copy = torch.empty_like(source)
    side = 8192 if on_gpu else 1024
    matrix = torch.randn(side, side, device=device).to(dtype)
    product = torch.empty_like(matrix)
    seconds = [_best(lambda: copy.copy_(source), device)]
    seconds.append(_best(lambda: torch.mm(matrix, matrix, out=product), device))
    return Peak(2 * size / seconds[0], 2 * side**3 / seconds[1])


def _best(run, device: torch.device) -> float:  # type: ignore[no-untyped-def]
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return min(times)
