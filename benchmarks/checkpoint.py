"""Write a checkpoint with random weights, in the folder layout of the published ones.

    python benchmarks/checkpoint.py OUT_DIR --family qwen2.5-vl
    python benchmarks/checkpoint.py OUT_DIR --family llava-next --sizes llava-next-7b

It has the real configuration classes, processors and chat-template structure, so vLLM serves it
like the real model: token counts, positions, caches and timings mean something, answers do not.
Sizes `tiny`, which every family has, are for tests; the others have the published geometry.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from vllm_script.benchmarks.checkpoints import SIZES, write
from vllm_script.benchmarks.common import ending_well, parser_of


def main() -> None:
    args = parse_arguments()
    with ending_well(ValueError, OSError):
        if not (args.if_absent and (args.out_dir / "config.json").exists()):
            write(args.out_dir, args.family, args.sizes, args.seed)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    known = {name: None for sizes in SIZES.values() for name in sizes}
    parser = parser_of(__doc__)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--family", choices=list(SIZES), required=True)
    parser.add_argument("--sizes", choices=list(known), default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    absent = "write nothing where there is a complete checkpoint already"
    parser.add_argument("--if-absent", action="store_true", help=absent)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
