"""Time to first token of every model family: stock vLLM against the plugin and vLLM's own pruning.

    python benchmarks/family_bench.py                     # a quarter of an hour on two CPU cores
    python benchmarks/family_bench.py --families qwen3-vl --keep-ratio 0.11

Of each family it serves a model with random weights, whose language model has 20 million parameters
and whose patches are as published, tiles of a fixed size near 384 pixels, and sends it pictures and
videos, one request at a time: to stock vLLM and, in turns (A B B A), to the plugin; where vLLM can
prune the family's videos itself (--video-pruning-method evs, vidcom2), to that as well, at the same
keep ratio. On a CPU that takes a worker of ours, for vLLM 0.32 fails there at the first video:
serve/own_pruning_worker.py. Two servers are up at a time, and every request is new to both. Ends
with an error if a request fails or has other token counts than expected. Writes OUT/results.jsonl,
a line for each comparison, and report.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import openai
from serve.cells import STOCK
from serve.checkpoints import FAMILY_MODELS, written
from serve.checks import WrongOutputs
from serve.duels import duels_of, measure, report
from serve.expected import Expected
from serve.fleet import FLAGS, Fleet, default_flags
from serve.own_pruning import WORKER_PATH, own_flags
from serve.requests import size_of
from serve_bench import accelerator, machine
from tqdm import tqdm


def main() -> None:
    args = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are stopped
    on_cpu = not accelerator()
    if on_cpu:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB of each server
        paths = (WORKER_PATH, os.environ.get("PYTHONPATH"))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    flags = default_flags(on_cpu)
    args.out.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, Any]] = []
    try:
        for line in measure_families(args, flags, on_cpu):
            lines.append(line)
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (args.out / "results.jsonl").write_text(text, encoding="utf-8")
    except WrongOutputs as error:
        sys.exit(f"{Path(__file__).name}: wrong outputs: {error}")
    except (ValueError, OSError, RuntimeError, openai.OpenAIError) as error:
        sys.exit(f"{Path(__file__).name}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    text = report(lines, describe(flags))
    (args.out / "report.md").write_text(text, encoding="utf-8")
    print(f"\n{text}\nwritten to {args.out}")


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    summary, details = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = list(FAMILY_MODELS)
    parser.add_argument("--out", type=Path, default=Path("runs/families"), help="of results")
    parser.add_argument("--families", nargs="+", choices=names, default=names)
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=size_of,
        default=[size_of("672x672"), size_of("16x336x336")],
        help="WIDTHxHEIGHT of a picture, FRAMESxWIDTHxHEIGHT of a video",
    )
    parser.add_argument("--keep-ratio", type=float, default=0.25)
    parser.add_argument("--requests", type=int, default=3, help="of a block")
    parser.add_argument("--repetitions", type=int, default=2, help="blocks of each server")
    return parser.parse_args(argv)


def measure_families(
    args: argparse.Namespace, flags: Sequence[str], on_cpu: bool
) -> Iterator[dict[str, Any]]:
    """A line for each comparison.

    Raises:
        WrongOutputs: a server did not do what it was asked for.
    """
    amounts = (args.keep_ratio, args.requests, args.repetitions)
    plans = []
    for family in args.families:
        checkpoint = str(written(FAMILY_MODELS[family]))
        expected = Expected(checkpoint)
        methods = expected.own_methods
        duels = duels_of(family, args.sizes, expected.modalities, methods, *amounts)
        plans.append((checkpoint, expected, duels))
    blocks = sum(len(duels) for *_, duels in plans) * 2 * args.repetitions
    with tqdm(total=blocks, unit="block", smoothing=0, dynamic_ncols=True) as bar:
        for checkpoint, expected, duels in plans:
            kinds = FLAGS | {m: own_flags(m, args.keep_ratio, on_cpu) for m in expected.own_methods}
            with Fleet(checkpoint, flags, {}, bar.set_postfix_str, kinds) as fleet:
                for duel in duels:
                    targets = fleet.provide((STOCK, duel.rival), launch=0)
                    yield measure(duel, targets, expected, checkpoint, args.out, bar)


def describe(flags: Sequence[str]) -> dict[str, str]:
    """What a reader needs to judge and to repeat the run."""
    packages = ("vllm-script", "vllm", "torch", "transformers")
    environment = {k: v for k, v in sorted(os.environ.items()) if k.startswith(("VLLM_", "OMP_"))}
    return {
        "models": "random weights, language models of 20 million parameters, patches as published, "
        "tiles near 384 pixels",
        "machine": machine(),
        "server flags": shlex.join(flags),
        "environment": ", ".join(f"{k}={v}" for k, v in environment.items()),
        "versions": ", ".join(f"{name} {version(name)}" for name in packages),
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(["python", "benchmarks/" + Path(__file__).name, *sys.argv[1:]]),
    }


if __name__ == "__main__":
    main()
