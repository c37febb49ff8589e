"""How long selection takes: every op of kernels/, and the whole of mode `script`.

`python benchmarks/kernel_bench.py` on a CUDA GPU times Triton, the reference in eager PyTorch, the
same with its steps under torch.compile, and the loop in the form that published code has. Without
a GPU it leaves Triton out and takes small shapes. Loops on the host are left out where they have
more than 12,000 steps. No time is printed of a shape whose selection is wrong. Human table on
stdout; --json FILE gets one object a line.

MB and GFLOP are what an op cannot do without, roofline is the part of the time that a measured copy
and a measured matrix product would need for them; more than 100 % came from a cache.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from vllm_script.benchmarks.common import parser_of, repeatable
from vllm_script.benchmarks.kernel.inputs import make_inputs, shapes
from vllm_script.benchmarks.kernel.ops import passes_gate, runs
from vllm_script.benchmarks.kernel.timing import measured_peak, quantiles, work_of

COLUMNS = {
    **{"op": "<13", "variant": "<10", "P": ">6", "D": ">6", "K": ">6", "batch": ">6"},
    **{"p20 ms": ">10.3f", "p50 ms": ">10.3f", "p80 ms": ">10.3f"},
    **{"MB": ">9.1f", "GFLOP": ">9.1f", "roofline": ">10.1%"},
}
"""Of the table, with the form of their cells."""


def main() -> None:
    args = parse_arguments()
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    dtype = torch.bfloat16 if on_gpu else torch.float32
    about = environment(device, dtype)
    for name, value in about.items():
        print(f"# {name}: {value}")
    if not on_gpu:
        print("# Triton is left out: there is no CUDA GPU, its interpreter's times mean nothing")
    peak = measured_peak(device, dtype)
    print(f"# measured peaks: {peak.bytes / 1e9:.0f} GB/s, {peak.flop / 1e12:.1f} TFLOP/s")
    print("".join(f"{name:{form.split('.')[0]}}" for name, form in COLUMNS.items()))
    output = args.json.open("a") if args.json else None
    for shape in shapes(args.quick, on_gpu):
        progress(f"{shape}")
        inputs = make_inputs(shape, device, dtype)
        if not passes_gate(inputs, "triton" if on_gpu else "torch"):
            continue
        for op, variant, run in runs(inputs, on_gpu):
            if args.op and op not in args.op:
                continue
            progress(f"  {op} {variant}")
            work = work_of(op, shape, dtype)
            p20, p50, p80 = quantiles(run, device)
            row = {
                **{"op": op, "variant": variant, "P": shape.tokens, "D": shape.dim},
                **{"K": shape.budget, "batch": shape.batch},
                **{"p20 ms": 1e3 * p20, "p50 ms": 1e3 * p50, "p80 ms": 1e3 * p80},
                **{"MB": work.bytes / 1e6, "GFLOP": work.flop / 1e9},
                "roofline": max(work.bytes / peak.bytes, work.flop / peak.flop) / p50,
            }
            print("".join(f"{row[name]:{form}}" for name, form in COLUMNS.items()), flush=True)
            if output:
                print(json.dumps(about | row), file=output, flush=True)


def progress(text: str) -> None:
    """Say what is being done."""
    print(text, file=sys.stderr, flush=True)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--quick", action="store_true", help="two sizes, one keep ratio")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append the rows to it")
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
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout
        about |= {"gpu": torch.cuda.get_device_name(), "driver": driver.strip().splitlines()[0]}
        about |= {"cuda": str(torch.version.cuda)}
    else:
        about |= {"cpu": platform.machine(), "threads": str(torch.get_num_threads())}
    return about


if __name__ == "__main__":
    with torch.no_grad():
        main()
