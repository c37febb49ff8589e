"""Train script-demo from nothing: `python benchmarks/demo_model/train.py --out DIR`.

Stop it at any time and run the same command again: it goes on where it was, at most two minutes
back. `--minutes 9` stops by itself and can be run again. Each time it ends by itself it writes the
models, as good as they are by then, to DIR/script-demo.
"""

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from tokenizers import Tokenizer

from vllm_script.benchmarks.demo_model.export import export
from vllm_script.benchmarks.demo_model.initialise import initialise
from vllm_script.benchmarks.demo_model.loader import Load, prepared
from vllm_script.benchmarks.demo_model.model import Demo
from vllm_script.benchmarks.demo_model.stage import PARTS, Tools
from vllm_script.benchmarks.demo_model.stages import STAGES
from vllm_script.benchmarks.demo_model.text import train_tokenizer
from vllm_script.benchmarks.training.loop import UNFINISHED, Options, run


def main() -> int:
    """Run the stages that are not done yet, then export."""
    args = parse_arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    cuda = args.device == "cuda"
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("high")
    options = Options(args.out, args.device, deadline=time.time() + args.minutes * 60)
    load = Load(
        batch=args.batch or (64 if cuda else 8),
        scale=args.scale,
        workers=args.workers,
        dev_scenes=256 if cuda else 48,
    )
    tools = Tools(_tokenizer(args.out))
    demo = Demo("sdpa" if cuda else "eager")
    initialise(demo, args.seed)
    demo.to(args.device)
    finished = run(demo, PARTS, prepared(demo, tools, load, args.device), options, args.stage)
    print("wrote", export(demo, tools.tokenizer, args.out / "script-demo"), flush=True)
    return 0 if finished else UNFINISHED


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = "cuda" if torch.cuda.is_available() else "cpu"
    cores = os.cpu_count() or 1
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints and result")
    parser.add_argument("--device", choices=("cuda", "cpu"), default=default)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after this long")
    parser.add_argument(
        "--stage",
        choices=[stage.name for stage in STAGES],
        help="forget what was done from this stage on and begin it anew",
    )
    parser.add_argument("--scale", type=float, default=1.0, help="share of the scenes to train on")
    parser.add_argument("--batch", type=int, help="scenes a step (64 on a GPU, else 8)")
    workers = cores - 1 if default == "cuda" else 0
    parser.add_argument("--workers", type=int, default=workers, help="processes that draw scenes")
    parser.add_argument("--threads", type=int, default=max(1, cores // 2), help="of the CPU")
    parser.add_argument("--seed", type=int, default=0, help="of the starting weights")
    return parser.parse_args()


def _tokenizer(folder: Path) -> Tokenizer:
    """Read the run's tokenizer, or train it first."""
    path = folder / "tokenizer.json"
    if not path.exists():
        train_tokenizer().save(str(path))
    return Tokenizer.from_file(str(path))


if __name__ == "__main__":
    sys.exit(main())
