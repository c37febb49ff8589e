"""Times of a call, and the table of them: rows on stdout, and on stderr what is being done."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from .cost import Cost, Peak
from .inputs import Shape

# Each time is of at least so many calls, and the calls of each take at least so many seconds.
LEAST_CALLS, LEAST_SECONDS = 5, 0.3


def measure(
    op: str,
    variant: str,
    run: Callable[[], Any],
    shape: Shape,
    cost: Cost,
    peak: Peak,
    device: torch.device,
) -> dict[str, Any]:
    """Time a call; a row of results with what it costs at least beside it."""
    progress(f"  {op} {variant}")
    p20, p50, p80 = (1e3 * seconds for seconds in quantiles(run, device))
    share = max(cost.bytes / peak.bytes_per_s, cost.flop / peak.flop_per_s) / (p50 / 1e3)
    return {
        **{"op": op, "variant": variant, "P": shape.tokens, "D": shape.dim, "K": shape.budget},
        **{"batch": shape.batch, "p20_ms": p20, "p50_ms": p50, "p80_ms": p80},
        **{"bytes": cost.bytes, "flop": cost.flop, "roofline_share": share},
    }


def quantiles(run: Callable[[], Any], device: torch.device) -> list[float]:
    """p20, p50 and p80 in seconds, after a call to warm up."""
    run()
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < LEAST_CALLS or time.perf_counter() - begin < LEAST_SECONDS:
        times.append(timed(run, device))
    p20, p50, p80 = (statistics.quantiles(times, n=10)[index] for index in (1, 4, 7))
    return [p20, p50, p80]


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


def print_header() -> None:
    """Print the head of the table."""
    print(f"{'op':<12}{'variant':<11}{'P':>6}{'D':>6}{'K':>6}{'batch':>6}", end="")
    print(f"{'p20 ms':>10}{'p50 ms':>10}{'p80 ms':>10}{'MB':>9}{'GFLOP':>9}{'roofline':>10}")


def print_row(row: dict[str, Any]) -> None:
    """Print one line of the table, what `measure` has returned."""
    print(f"{row['op']:<12} {row['variant']:<10}{row['P']:>6}{row['D']:>6}{row['K']:>6}", end="")
    print(f"{row['batch']:>6}{row['p20_ms']:>10.3f}{row['p50_ms']:>10.3f}", end="")
    print(f"{row['p80_ms']:>10.3f}{row['bytes'] / 1e6:>9.1f}{row['flop'] / 1e9:>9.1f}", end="")
    print(f"{row['roofline_share']:>10.1%}", flush=True)


def progress(text: str) -> None:
    """Say what is being done."""
    print(text, file=sys.stderr, flush=True)
