"""How long selection takes: every op of kernels/, and the whole of mode `script`.

`python benchmarks/kernel_bench.py` on a CUDA GPU times Triton, with all images of a batch in one
call and one by one, and torch.mm (cuBLAS) of the rows with themselves. At keep ratio 0.11 also the
reference in eager PyTorch, the same with its steps under torch.compile, and the loop in the form
that published code has, unless they take more than 12,000 steps. Without a GPU it leaves Triton out
and takes small shapes. No time is printed of a shape whose selection is wrong, and then the command
ends with an error. Human table on stdout; --json FILE gets one object a line.

Calls are enqueued one behind the other, p20 to p80 are of rounds of them: what the GPU takes, or
the host if it takes longer. Cold is a call with other memory in the L2 cache before it, host the
time until a call is enqueued, with nothing before it. us/step is p50 by the steps of greedy MAP,
which in Triton all images take at once; rounds are those of graph reduction, in the image that
takes most. MB and GFLOP are what an op cannot do without, roofline is the part of p50 that a
measured copy and a measured matrix product would need for them; more than 100 % came from a cache.
TFLOP/s are of the products that are computed: half the matrix in Triton, all of it in torch.mm.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from vllm_script.benchmarks.common import driver, parser_of, repeatable
from vllm_script.benchmarks.kernel.columns import HEADER, line_of, row_of
from vllm_script.benchmarks.kernel.inputs import make_inputs, shapes
from vllm_script.benchmarks.kernel.ops import passes_gate, rounds_of, runs
from vllm_script.benchmarks.kernel.timing import measured, measured_peak
from vllm_script.kernels import Backend

BASELINES_AT = 0.11
"""Keep ratio at which eager PyTorch and other loops are timed too."""


def main() -> None:
    args = parse_arguments()
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    dtype = torch.bfloat16 if on_gpu else torch.float32
    backend: Backend = "triton" if on_gpu else "torch"
    about = environment(device, dtype)
    for name, value in about.items():
        print(f"# {name}: {value}")
    if not on_gpu:
        print("# Triton is left out: there is no CUDA GPU, its interpreter's times mean nothing")
    peak = measured_peak(device, dtype)
    print(f"# measured peaks: {peak.bytes / 1e9:.0f} GB/s, {peak.flop / 1e12:.1f} TFLOP/s")
    print(HEADER)
    output = args.json.open("w") if args.json else None
    all_right = True
    for shape in shapes(args.quick, on_gpu, args.tokens):
        progress(f"{shape}")
        try:
            inputs = make_inputs(shape, device, dtype)
            if not passes_gate(inputs, backend):
                all_right = False
                continue
            rounds = rounds_of(inputs, backend)
            torch.compiler.reset()  # a shape that is compiled counts against a limit
            compared = not on_gpu or shape.keep_ratio == BASELINES_AT
            for run in runs(inputs, on_gpu, compared and not args.no_baselines):
                if args.op and run.op not in args.op:
                    continue
                progress(f"  {run.op} {run.variant}")
                row = row_of(run, shape, dtype, measured(run.call, device), rounds, peak)
                print(line_of(row), flush=True)
                if output:
                    print(json.dumps(about | row), file=output, flush=True)
        except torch.OutOfMemoryError:
            print(f"! {shape}: this GPU has no room for it", flush=True)
    sys.exit(not all_right)


def progress(text: str) -> None:
    """Say what is being done."""
    print(text, file=sys.stderr, flush=True)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--quick", action="store_true", help="two sizes, one keep ratio")
    tokens = "of an image, of the shapes that there are: these alone"
    parser.add_argument("--tokens", nargs="+", type=int, default=[], help=tokens)
    less = "leave out eager PyTorch and other loops, which take minutes to compile"
    parser.add_argument("--no-baselines", action="store_true", help=less)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to it")
    parser.add_argument("--op", nargs="*", help="these ops alone, as the table names them")
    return parser.parse_args(argv)


def environment(device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """What a number needs beside it."""
    about = {
        **repeatable(("torch", "triton")),
        "python": platform.python_version(),
        "dtype": str(dtype),
    }
    if device.type == "cuda":
        about |= {"gpu": torch.cuda.get_device_name(), "driver": driver()}
        about |= {"cuda": str(torch.version.cuda)}
    else:
        about |= {"cpu": platform.machine(), "threads": str(torch.get_num_threads())}
    return about


if __name__ == "__main__":
    with torch.no_grad():
        main()
