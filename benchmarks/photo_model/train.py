"""Train the model that assemble.py has put together, on photographs.

    python benchmarks/photo_model/train.py --data DATA --start runs/photo/start --out runs/photo

DATA is described in photographs.py. Stop it at any time and run the same command again: it goes on
where it was, at most two minutes back. `--minutes 9` stops by itself and can be run again. Each
time it ends by itself it writes the model, as good as it is by then, to OUT/model.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

from vllm_script.benchmarks.common import (
    check_same_run,
    ending_well,
    parser_of,
    read_lines,
    write_lines,
)
from vllm_script.benchmarks.photo_model.checkpoint import export, read
from vllm_script.benchmarks.photo_model.photographs import read as read_photographs
from vllm_script.benchmarks.photo_model.stages import PARTS, PLANS, Load, stages_of
from vllm_script.benchmarks.training.loop import UNFINISHED, Options, run


def main() -> int:
    """Run the stages that are not done yet, then export."""
    args = parse_arguments()
    cuda = args.device == "cuda"
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(args.seed)
    options = Options(args.out, args.device, deadline=time.time() + args.minutes * 60)
    load = Load(
        batch=args.batch or (32 if cuda else 8),
        scale=args.scale,
        workers=args.workers,
        dev_samples=args.dev_samples,
        seed=args.seed,
    )
    with ending_well(ValueError, OSError):
        _check_same_run(args, load)
        photographs = read_photographs(args.data)
        model, processor = read(args.start)
        model.to(args.device)
        stages = stages_of(model, processor, photographs, load, args.device)
        finished = run(model, PARTS, stages, options, args.stage)
        print("wrote", export(model, args.start, args.out / "model"), flush=True)
    return 0 if finished else UNFINISHED


def _check_same_run(args: argparse.Namespace, load: Load) -> None:
    """Keep a training that began with other settings from going on with these.

    Raises:
        ValueError: OUT has one.
    """
    settings = {"batch": load.batch, "scale": load.scale, "seed": load.seed}
    now = {"start": str(args.start.resolve()), **settings}
    for before in read_lines(args.out / "run.json"):
        check_same_run(args.out, before, now)
    write_lines(args.out / "run.json", [now])


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = parser_of(__doc__)
    default = "cuda" if torch.cuda.is_available() else "cpu"
    cores = os.cpu_count() or 1
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of photographs")
    add("--start", type=Path, required=True, help="folder that assemble.py wrote")
    add("--out", type=Path, required=True, help="folder of checkpoints and result")
    add("--device", choices=("cuda", "cpu"), default=default)
    add("--minutes", type=float, default=float("inf"), help="stop after this long")
    again = "forget what was done from this stage on and begin it anew"
    add("--stage", choices=[plan.name for plan in PLANS], help=again)
    add("--scale", type=float, default=1.0, help="share of the samples to train on")
    add("--batch", type=int, help="samples a step (32 on a GPU, else 8)")
    workers = cores - 1 if default == "cuda" else 0
    add("--workers", type=int, default=workers, help="processes that read photographs")
    add("--dev-samples", type=int, default=512, help="held-out questions to judge by")
    add("--threads", type=int, default=max(1, cores // 2), help="of the CPU")
    add("--seed", type=int, default=0, help="of the questions that are drawn")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
