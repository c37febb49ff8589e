"""Most memory that one selection takes at a time, and its seconds, against the tokens of an image.

    python benchmarks/selection_memory.py [--mode script] [--keep-ratio 0.11] [--json FILE]

Beyond a window of tokens both grow with the image and no longer with its square. What an image
brings with it, its visual tokens, is not counted.
"""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path

import torch

from vllm_script.benchmarks.common import machine, markdown, parser_of, peak_bytes, repeatable
from vllm_script.pruning import MODES, PruningParams, run_mode

TOKENS = (2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS)
    parser.add_argument("--dim", type=int, default=256, help="values of a visual token")
    parser.add_argument("--mode", choices=MODES, default="script")
    parser.add_argument("--keep-ratio", type=float, default=0.11)
    parser.add_argument("--json", type=Path, help="file to add a line to")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = []
    for num_tokens in args.tokens:
        generator = torch.Generator(device).manual_seed(0)
        tokens = torch.randn(num_tokens, args.dim, generator=generator, device=device)
        relevance = torch.rand(num_tokens, generator=generator, device=device)
        budget = max(1, round(args.keep_ratio * num_tokens))

        select = partial(
            run_mode, tokens, budget, relevance, mode=args.mode, params=PruningParams()
        )
        begun = time.perf_counter()
        peak = peak_bytes(select)
        if device.type == "cuda":
            torch.cuda.synchronize()
        rows.append((num_tokens, budget, peak, time.perf_counter() - begun))
        print(f"{num_tokens} tokens: {peak / 2**20:.1f} MiB, {rows[-1][3]:.2f} s", flush=True)
    header = ("tokens", "kept", "peak, MiB", "s")
    print(
        markdown(header, [(f"{n}", f"{k}", f"{b / 2**20:.1f}", f"{s:.2f}") for n, k, b, s in rows])
    )
    if args.json:
        result = {
            "machine": machine(),
            **repeatable(("torch", "triton")),
            "dim": args.dim,
            "mode": args.mode,
            "columns": ("tokens", "kept", "bytes", "seconds"),
            "rows": rows,
        }
        with args.json.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
