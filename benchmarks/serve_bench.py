"""Stock vLLM against the plugin, under load, on one machine in one run.

    python benchmarks/serve_bench.py                  # a model with random weights
    python benchmarks/serve_bench.py --quick          # two minutes
    python benchmarks/serve_bench.py --model llava-hf/llava-v1.6-vicuna-7b-hf --pictures FOLDER
    python benchmarks/serve_bench.py --model MODEL --url-a http://host:8000 --url-b http://host:8001

Starts `vllm serve MODEL` without any plugin (stock) and `vllm serve MODEL --plugin script`, drives
them in turns with vLLM's own load generator (`vllm bench serve`), and stops them in the end. Flags
after `--` go to every server. Ends with an error if answers are wrong: pruning off must answer as
stock does, and every request must succeed with exactly the prompt and output tokens expected of
it. Stop it at any time: the same command goes on where it was. Writes OUT/results.jsonl (a line a
cell and arm), report.md, throughput.png and ttft.png.

A model with random weights has the timings of a trained one; give cpu-108m (a language model of 108
million parameters), llava-next-7b (15 GB on disk) or, of another family, qwen3-vl-20m as --model to
have it written. Videos are sent as frames: --model qwen3-vl-20m --sizes 16x336x336.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openai

from vllm_script.benchmarks import common
from vllm_script.benchmarks.checkpoints import NAMED, written
from vllm_script.benchmarks.common import accelerator, ending_well, parser_of, publish
from vllm_script.benchmarks.serving.cells import SCRIPT, STOCK, UNUSED, Cell, grid, off_cells
from vllm_script.benchmarks.serving.checks import WrongOutputs
from vllm_script.benchmarks.serving.expected import Expected
from vllm_script.benchmarks.serving.fleet import Fleet, default_flags
from vllm_script.benchmarks.serving.measure import SETTLE_SECONDS, Measurement, measure_all
from vllm_script.benchmarks.serving.requests import picture_files, size_of
from vllm_script.benchmarks.serving.results import Results, describe
from vllm_script.benchmarks.serving.tables import plot, report

QUICK: dict[str, Any] = dict(
    sizes=["672x672"], concurrency=[1, 4], rates=[], keep_ratios=[0.11], requests=2, repetitions=2
)


def main() -> None:
    args = parse_arguments()
    on_cpu = not accelerator()
    model = args.model or ("cpu-108m" if on_cpu else "llava-next-7b")
    urls = {STOCK: args.url_a, SCRIPT: args.url_b} if args.url_a else {}
    if on_cpu:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")  # GiB of each server
    flags = [*default_flags(on_cpu), *args.server_flags]
    lengths = (args.input_tokens, args.output_tokens, args.seed)
    shown = f"{model}, random weights" if model in NAMED else Path(model).name
    about = describe(shown, *lengths, None if urls else flags)
    args.out.mkdir(parents=True, exist_ok=True)
    with ending_well(WrongOutputs, ValueError, OSError, RuntimeError, openai.OpenAIError):
        results = Results(args.out / "results.jsonl", about)
        cells = cells_of(args, off=[SCRIPT] if urls else [SCRIPT, UNUSED])
        expected = Expected(written(model))
        fleet = Fleet(expected.model, flags, urls)
        measure_all([Measurement(about, expected, cells, fleet, results, args.pictures)])
    plot(results, args.out)
    publish(args.out, report(results, SETTLE_SECONDS))


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line, and check what argparse cannot."""
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/serve"), help="folder of results")
    parser.add_argument("--quick", action="store_true", help="a few small cells")
    add = parser.add_argument_group("what answers").add_argument
    random = f"checkpoint, or random weights to write: {', '.join(NAMED)}"
    add("--model", help=f"{random}. Default: the first on a CPU, the second on a GPU")
    add("--url-a", help="a running server without the plugin; then start none")
    add("--url-b", help="a running server of the same model with --plugin script")
    add = parser.add_argument_group("what is asked").add_argument
    sizes = "of random pictures, WIDTHxHEIGHT, or videos, FRAMESxWIDTHxHEIGHT; all loads on the "
    sizes += "first, the first on the others"
    add("--sizes", nargs="+", default=["672x672", "336x336"], help=sizes)
    add("--pictures", type=Path, help="folder of pictures, instead of random ones")
    add("--keep-ratios", type=float, nargs="+", default=[0.11, 0.5], help="each is an arm")
    at_once = [1, 2, 4, 8, 16, 32]
    add("--concurrency", type=int, nargs="+", default=at_once, help="at a time, a cell each")
    rates = "requests/s with Poisson arrivals, a cell each; 0.7x is a multiple of the most that "
    rates += "stock served"
    add("--rates", nargs="*", type=rate_of, default=["0.7x"], help=rates)
    add("--input-tokens", type=int, default=32, help="of the text of a request")
    add("--output-tokens", type=int, default=16, help="of an answer, whatever it is")
    add = parser.add_argument_group("how long it is measured").add_argument
    add("--requests", type=int, default=4, help="of a block, at least as many as come at once")
    add("--repetitions", type=int, default=3, help="blocks of each arm of a cell")
    off = "also compare stock with the plugin at keep ratio 1.0, and installed and not used"
    add("--off", action="store_true", help=off)
    add("--launches", type=int, default=4, help="fresh pairs of servers for --off")
    add("--seed", type=int, default=0)
    own, flags = common.split_arguments(argv)
    if "--quick" in own:
        parser.set_defaults(**QUICK)
    args = parser.parse_args(own)
    args.server_flags = flags
    if bool(args.url_a) != bool(args.url_b):
        parser.error("give both --url-a and --url-b, or none")
    if args.url_a and not args.model:
        parser.error("--url-a needs --model, the checkpoint that the servers have")
    return args


def rate_of(text: str) -> str:
    """Check that a rate is as "2" or "0.7x"."""
    float(text.removesuffix("x"))
    return text


def cells_of(args: argparse.Namespace, off: Sequence[str]) -> list[Cell]:
    """All cells, in the order of measurement; `off`: servers to compare with pruning switched off.

    Raises:
        ValueError: a size is malformed, or the folder has no pictures.
    """
    if args.pictures:
        picture_files(args.pictures)
    for size in args.sizes:
        size_of(size)
    pictures = [args.pictures.name] if args.pictures else args.sizes
    loads = (args.concurrency, args.rates, args.keep_ratios)
    cells = grid(pictures, *loads, args.requests, args.repetitions)
    return cells + (off_cells(pictures[0], args.launches, off) if args.off else [])


if __name__ == "__main__":
    main()
