"""How long each mode takes to select in one image, in turns, beside the default.

    python benchmarks/mode_times.py [--tokens 2880] [--dim 4096] [--keep 322] [--json FILE]

Everything is timed once a turn, in one order and then in the other; the first turn does not count.
Times are medians, ratios medians of the ratios to the default in the same turn. The tokens are
random, in clusters that share a direction.
"""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tqdm import tqdm

from vllm_script.benchmarks.common import machine, markdown, parser_of, repeatable
from vllm_script.benchmarks.kernel.inputs import Shape, make_inputs
from vllm_script.pruning import MODES, PruningParams, run_mode
from vllm_script.pruning.params import GEOMETRIES


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--tokens", type=int, default=2880)
    parser.add_argument("--dim", type=int, default=4096, help="values of a visual token")
    parser.add_argument("--keep", type=int, default=322, help="tokens that stay")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    parser.add_argument("--json", type=Path, help="file to add a line to")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape = Shape(args.tokens, args.dim, args.keep / args.tokens, args.keep, batch=1)
    inputs = make_inputs(shape, device, getattr(torch, args.dtype))
    ways = {
        f"{mode}, {geometry}": partial(
            run_mode, inputs.x, args.keep, inputs.relevance, mode, PruningParams(geometry=geometry)
        )
        for mode, its in MODES.items()
        for geometry in (GEOMETRIES if "geometry" in its.reads else GEOMETRIES[:1])
    }
    seconds = _in_turns(ways, args.turns, device)
    default = next(iter(ways))
    rows: list[tuple[str, float, float]] = []
    for name, own in seconds.items():
        ratios = [a / b for a, b in zip(own, seconds[default], strict=True)]
        rows.append((name, 1e3 * median(own), median(ratios)))
    header = ["mode", "ms", f"times {default}"]
    print(markdown(header, [[name, f"{ms:.0f}", f"{ratio:.2f}"] for name, ms, ratio in rows]))
    if args.json:
        about = {"machine": f"{machine()}, {args.threads} threads", "dtype": args.dtype}
        sizes = {"tokens": args.tokens, "dim": args.dim, "keep": args.keep}
        line = about | repeatable(("torch", "triton")) | sizes | {"columns": header, "rows": rows}
        with args.json.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _in_turns(ways: dict[str, Any], turns: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each way, turn by turn, without the first."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in tqdm(range(turns + 1), unit="turn", mininterval=5):
        for name in list(ways) if turn % 2 else reversed(ways):
            begun = time.perf_counter()
            ways[name]()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(time.perf_counter() - begun)
    return seconds


if __name__ == "__main__":
    with torch.no_grad():
        main()
