"""How long selection takes: every op of kernels/, and the whole of mode `script`.

`python benchmarks/kernel_bench.py` on a CUDA GPU times Triton, the reference in eager PyTorch, the
same with its steps under torch.compile, and the loop in the form that published code has. Without
a GPU it leaves Triton out and takes small shapes. No time is printed of a shape whose selection is
wrong. Human table on stdout; --json FILE gets one object a line.

MB and GFLOP are what an op cannot do without, roofline is the part of the time that a measured copy
and a measured matrix product would need for them; more than 100 % came from a cache.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from kernel_cost import Cost, Peak, cost_of, measured_peak
from loop_forms import compiled_selection, published_selection

from vllm_script.kernels import (
    bipartite_redundancy,
    gather_rows,
    greedy_map,
    inverse_norms,
    query_relevance,
    reduce_graph,
)
from vllm_script.kernels.testing import assert_selection

SETTINGS: dict[str, Any] = {"tau": 0.1, "tau_relative": True, "gamma": 1.0}
POOL_RATIO = 0.5

KEEP_RATIOS = (0.056, 0.11, 0.25, 0.5)
FULL = {"tokens": (576, 2880, 5760), "dims": (4096, 3584), "keep": KEEP_RATIOS, "batch": (1, 8, 32)}
QUICK = {"tokens": (576, 2880), "dims": (4096,), "keep": (0.11,), "batch": (1, 8)}
ON_CPU = {"tokens": (576,), "dims": (256,), "keep": (0.11, 0.5), "batch": (1,)}

# Loops on the host make a few launches a step: more steps than these are not worth waiting for.
MOST_HOST_STEPS = 12_000

# Each time is of at least so many calls, and the calls of each take at least so many seconds.
LEAST_CALLS, LEAST_SECONDS = 5, 0.3

QUERY_ROWS = 2


@dataclass(frozen=True)
class Shape:
    """Some images of the same shape."""

    tokens: int
    dim: int
    budget: int
    batch: int

    @property
    def target(self) -> int:
        return max(self.budget, int(POOL_RATIO * self.tokens + 0.5))

    @property
    def lengths(self) -> list[int]:
        return [self.tokens] * self.batch


@dataclass(frozen=True)
class Inputs:
    """Of all images, one after the other."""

    x: torch.Tensor
    relevance: torch.Tensor
    query: torch.Tensor
    shape: Shape


def main() -> None:
    args = parse_arguments()
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    dtype = torch.bfloat16 if on_gpu else torch.float32
    about = environment(device, dtype)
    for name, value in about.items():
        print(f"# {name}: {value}")
    if not on_gpu:
        print(
            "# Triton is left out: there is no CUDA GPU, and its interpreter's times mean nothing"
        )
    peak = measured_peak(device, dtype)
    print(
        f"# measured peaks: {peak.bytes_per_s / 1e9:.0f} GB/s, {peak.flop_per_s / 1e12:.1f} TFLOP/s"
    )
    print(f"{'op':<12}{'variant':<11}{'P':>6}{'D':>6}{'K':>6}{'batch':>6}", end="")
    print(f"{'p20 ms':>10}{'p50 ms':>10}{'p80 ms':>10}{'MB':>9}{'GFLOP':>9}{'roofline':>10}")
    output = args.json.open("a") if args.json else None
    for shape in shapes(args, on_gpu):
        progress(f"{shape}")
        inputs = make_inputs(shape, device, dtype)
        if not passes_gate(inputs, "triton" if on_gpu else "torch"):
            continue
        for op, variant, run in runs(inputs, on_gpu):
            if args.op and op not in args.op:
                continue
            cost = cost_of(
                op, shape.tokens, shape.dim, shape.budget, shape.target, shape.batch, dtype
            )
            row = measure(op, variant, run, shape, cost, peak, device)
            print_row(row)
            if output:
                print(json.dumps(about | row), file=output, flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two sizes, one keep ratio")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append the rows to it")
    parser.add_argument("--op", nargs="*", help="these ops alone, as the table names them")
    return parser.parse_args()


def shapes(args: argparse.Namespace, on_gpu: bool) -> Iterator[Shape]:
    chosen: dict[str, tuple[Any, ...]] = QUICK if args.quick else FULL
    if not on_gpu:
        chosen = ON_CPU
    for tokens, dim, keep, batch in itertools.product(
        chosen["tokens"], chosen["dims"], chosen["keep"], chosen["batch"]
    ):
        # 322 of 2880 is what the plugin keeps of a 672x672 picture: newline tokens count too.
        budget = 322 if (tokens, keep) == (2880, 0.11) else round(keep * tokens)
        yield Shape(tokens, dim, budget, batch)


def make_inputs(shape: Shape, device: torch.device, dtype: torch.dtype) -> Inputs:
    """Clusters with a common offset: like real features, a third to a half alike on average."""
    generator = torch.Generator(device).manual_seed(0)
    options: dict[str, Any] = {"generator": generator, "device": device}
    num_rows = shape.tokens * shape.batch
    centres = torch.randn(shape.tokens // 4, shape.dim, **options) + 0.7
    labels = torch.randint(len(centres), (num_rows,), **options)
    x = (centres[labels] + 0.5 * torch.randn(num_rows, shape.dim, **options)).to(dtype)
    query = torch.randn(QUERY_ROWS * shape.batch, shape.dim, **options).to(dtype)
    return Inputs(x, torch.rand(num_rows, **options), query, shape)


def passes_gate(inputs: Inputs, backend: Any) -> bool:
    """Whether the selection of the first image is right, choice by choice, in float64."""
    shape = inputs.shape
    x, relevance = inputs.x[: shape.tokens], inputs.relevance[: shape.tokens]
    try:
        _, num_beyond_tie = assert_selection(
            x, relevance, shape.target, shape.budget, backend, **SETTINGS
        )
        assert num_beyond_tie == 0, f"{num_beyond_tie} picks are worse than a tie"
    except AssertionError as error:
        print(f"! {shape}: the selection is wrong, so it is not timed: {error}")
        return False
    return True


def runs(inputs: Inputs, on_gpu: bool) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """(op, variant, call) of everything that is timed of these inputs."""
    shape, x = inputs.shape, inputs.x
    pool = reduce_graph(x, [shape.target] * shape.batch, lengths=shape.lengths, **SETTINGS)
    kept = torch.arange(0, len(x), max(1, shape.tokens // shape.budget), device=x.device)
    backends: list[tuple[str, Any]] = [("triton", "triton")] if on_gpu else []
    few_steps = shape.budget * shape.batch <= MOST_HOST_STEPS
    for variant, backend in [*backends, ("eager", "torch")]:
        yield "norms", variant, lambda b=backend: inverse_norms(x, b)
        yield "relevance", variant, lambda b=backend: relevance_of(inputs, b)
        yield "redundancy", variant, lambda b=backend: one_round(inputs, b)
        yield "reduce_graph", variant, lambda b=backend: reduced(inputs, b)
        yield "gather", variant, lambda b=backend: gather_rows(x, kept, b)
        if few_steps or backend == "triton":
            yield "greedy_map", variant, lambda b=backend: picked(inputs, pool, b)
            yield "selection", variant, lambda b=backend: selected(inputs, b)
    if few_steps:
        yield "selection", "compiled", lambda: each_image(inputs, compiled_selection)
        yield "selection", "published", lambda: each_image(inputs, published_selection)
    else:
        progress(f"  loops on the host are left out: {shape.budget * shape.batch} steps")


def relevance_of(inputs: Inputs, backend: Any) -> torch.Tensor:
    query_lengths = [QUERY_ROWS] * inputs.shape.batch
    return query_relevance(
        inputs.x,
        inputs.query,
        lengths=inputs.shape.lengths,
        query_lengths=query_lengths,
        backend=backend,
    )


def one_round(inputs: Inputs, backend: Any) -> list[torch.Tensor]:
    images = inputs.x.split(inputs.shape.tokens)
    return [bipartite_redundancy(x[::2], x[1::2], 0.4, 1.0, backend) for x in images]


def reduced(inputs: Inputs, backend: Any) -> Any:
    targets = [inputs.shape.target] * inputs.shape.batch
    return reduce_graph(
        inputs.x, targets, **SETTINGS, lengths=inputs.shape.lengths, backend=backend
    )


def picked(inputs: Inputs, pool: Any, backend: Any) -> torch.Tensor:
    budgets = [inputs.shape.budget] * inputs.shape.batch
    return greedy_map(
        inputs.x,
        inputs.relevance,
        budgets,
        lengths=inputs.shape.lengths,
        pool=pool,
        backend=backend,
    )


def selected(inputs: Inputs, backend: Any) -> torch.Tensor:
    """What mode `script` does, for all images at once, and the kept rows."""
    shape, x = inputs.shape, inputs.x
    inverse_norm = inverse_norms(x, backend)
    given = {"lengths": shape.lengths, "inverse_norm": inverse_norm, "backend": backend}
    pool = reduce_graph(x, [shape.target] * shape.batch, **SETTINGS, **given)
    budgets = [shape.budget] * shape.batch
    picks = greedy_map(x, inputs.relevance, budgets, pool=pool, **given)
    return gather_rows(x, picks.sort().values, backend)


def each_image(inputs: Inputs, select: Callable[..., torch.Tensor]) -> torch.Tensor:
    shape = inputs.shape
    images = zip(inputs.x.split(shape.tokens), inputs.relevance.split(shape.tokens), strict=True)
    rows = [select(x, relevance, shape.target, shape.budget) for x, relevance in images]
    return torch.cat(rows)


def measure(
    op: str,
    variant: str,
    run: Callable[[], Any],
    shape: Shape,
    cost: Cost,
    peak: Peak,
    device: torch.device,
) -> dict[str, Any]:
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
    return start.elapsed_time(end) / 1e3


def print_row(row: dict[str, Any]) -> None:
    print(f"{row['op']:<12} {row['variant']:<10}{row['P']:>6}{row['D']:>6}{row['K']:>6}", end="")
    print(f"{row['batch']:>6}{row['p20_ms']:>10.3f}{row['p50_ms']:>10.3f}", end="")
    print(f"{row['p80_ms']:>10.3f}{row['bytes'] / 1e6:>9.1f}{row['flop'] / 1e9:>9.1f}", end="")
    print(f"{row['roofline_share']:>10.1%}", flush=True)


def environment(device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """What a number needs beside it."""
    about = {
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(["python", *sys.argv]),
        "torch": torch.__version__,
        "triton": triton_version(),
        "python": platform.python_version(),
        "dtype": str(dtype),
    }
    if device.type == "cuda":
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout
        about |= {"gpu": torch.cuda.get_device_name(), "driver": driver.strip().splitlines()[0]}
        about |= {"cuda": str(torch.version.cuda)}
    else:
        about |= {"cpu": platform.machine(), "threads": str(torch.get_num_threads())}
    return about


def triton_version() -> str:
    try:
        import triton
    except ImportError:
        return "not installed"
    return triton.__version__


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    with torch.no_grad():
        main()
