"""Time to first token of every model family: stock vLLM against the plugin and vLLM's own pruning.

    python benchmarks/family_bench.py                     # a quarter of an hour on two CPU cores
    python benchmarks/family_bench.py --families qwen3-vl --keep-ratio 0.11
    python benchmarks/family_bench.py --keep-ratio 0.11 --tower-keep 0.5   # and a thinned tower
    python benchmarks/family_bench.py --concurrency 8

Of each family it serves a model with random weights, whose language model has 20 million parameters
and whose patches are as published, tiles of a fixed size near 384 pixels, and sends it pictures and
videos: to stock vLLM and, in turns (A B B A), to the plugin; where vLLM can prune the family's
videos itself (--video-pruning-method evs, vidcom2), to that as well, at the same keep ratio. On a
CPU that takes a worker of ours, for vLLM 0.32 fails there at the first video:
serving/own_pruning_worker.py. With --tower-keep a third server takes its turn beside stock and the
plugin: the plugin with a vision tower that is thinned to this share, where the family's can be.
Other than that two servers are up at a time, and every request is new to all. Ends with an error if
a request fails or has other token counts than expected, or if the plugin at keep ratio 1.0 does not
answer as stock does. Stop it at any time: the same command goes on where it was.
Writes OUT/results.jsonl, a line a comparison and server, and report.md.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openai

from vllm_script.benchmarks.checkpoints import FAMILY_MODELS, written
from vllm_script.benchmarks.common import accelerator, ending_well, parser_of, publish
from vllm_script.benchmarks.serving.cells import SCRIPT, TOWER, family_cells
from vllm_script.benchmarks.serving.checks import WrongOutputs
from vllm_script.benchmarks.serving.expected import Expected
from vllm_script.benchmarks.serving.fleet import FLAGS, Fleet, default_flags
from vllm_script.benchmarks.serving.measure import Measurement, measure_all
from vllm_script.benchmarks.serving.own_pruning import own_flags
from vllm_script.benchmarks.serving.requests import size_of
from vllm_script.benchmarks.serving.results import Results, describe
from vllm_script.benchmarks.serving.tables import family_report

MODELS = (
    "random weights, language models of 20 million parameters, patches as published, tiles near "
    "384 pixels"
)
LENGTHS = (32, 2)
"""Tokens of a text, and of an answer: what comes after the first token is not looked at."""
SEED = 0


def main() -> None:
    args = parse_arguments()
    on_cpu = not accelerator()
    if on_cpu:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB of each server
    flags = default_flags(on_cpu)
    args.out.mkdir(parents=True, exist_ok=True)
    with ending_well(WrongOutputs, ValueError, OSError, RuntimeError, openai.OpenAIError):
        about = describe(MODELS, *LENGTHS, SEED, flags)
        results = Results(args.out / "results.jsonl", about)
        measure_all([measurement(name, args, about, results, on_cpu) for name in args.families])
    publish(args.out, family_report(results))


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = parser_of(__doc__)
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
    parser.add_argument(
        "--tower-keep", type=float, help="share of the patches that a thinned vision tower keeps"
    )
    parser.add_argument("--concurrency", type=int, default=1, help="requests at a time")
    requests = "of a block, at least as many as come at once"
    parser.add_argument("--requests", type=int, default=3, help=requests)
    parser.add_argument("--repetitions", type=int, default=2, help="blocks of each server")
    return parser.parse_args(argv)


def measurement(
    family: str, args: argparse.Namespace, about: dict[str, Any], results: Results, on_cpu: bool
) -> Measurement:
    """All comparisons of a family, with the servers that they take."""
    expected = Expected(written(FAMILY_MODELS[family]))
    methods = expected.own_methods
    amounts = (args.keep_ratio, args.requests, args.repetitions)
    towers = [TOWER] if args.tower_keep is not None and expected.has_thin_tower else []
    items = (args.sizes, expected.modalities, methods)
    cells = family_cells(family, *items, *amounts, towers, args.concurrency)
    thin = (*FLAGS[SCRIPT], "--script-tower-keep", str(args.tower_keep))
    kinds = (
        FLAGS
        | {TOWER: thin}
        | {method: own_flags(method, args.keep_ratio, on_cpu) for method in methods}
    )
    fleet = Fleet(expected.model, default_flags(on_cpu), {}, kinds)
    return Measurement(about, expected, cells, fleet, results)


if __name__ == "__main__":
    main()
