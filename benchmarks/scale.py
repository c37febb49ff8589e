"""How many instances, how much network and memory a load takes, pruned and not: modelled.

    python benchmarks/scale.py --requests-per-s 100          # of LLaVA-NeXT-7B's shape, on H200s
    python benchmarks/scale.py --results runs/serve/results.jsonl --keep-ratio 0.5
    python benchmarks/scale.py --check                       # about five minutes on two CPU cores

Costs are fitted to results of serve_bench.py, of the most requests at a time in there; by default
those of an H200 in benchmarks/results. What is asked is, too, what was asked there: one picture and
32 tokens in, 16 out. Options replace both. Nothing is run, but with --check: then one server, and
an encoder instance with a language model behind our proxy, are started on this machine and driven
in turns, and what is modelled of the pair stands beside what it did, in OUT/results.jsonl and
report.md. Flags after `--` go to every server of the check.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from vllm_script.benchmarks.checkpoints import NAMED, written
from vllm_script.benchmarks.common import (
    accelerator,
    ending_well,
    markdown,
    parser_of,
    publish,
    read_lines,
    split_arguments,
    write_lines,
)
from vllm_script.benchmarks.scaling.check import check_report, measure, servers
from vllm_script.benchmarks.scaling.costs import Costs, busiest, costs_of
from vllm_script.benchmarks.scaling.deployment import Deployment, Load, load_of
from vllm_script.benchmarks.serving.cells import SCRIPT, Arm, Cell
from vllm_script.benchmarks.serving.checks import WrongOutputs
from vllm_script.benchmarks.serving.expected import Expected
from vllm_script.benchmarks.serving.fleet import default_flags
from vllm_script.benchmarks.serving.requests import size_of
from vllm_script.benchmarks.serving.results import describe

MEASURED = Path(__file__).parent / "results" / "2026-11-26-h200-serve.jsonl"
"""LLaVA-NeXT-7B's geometry on an H200, pictures of 672x672, 32 requests at a time."""


def main() -> None:
    args = parse_arguments()
    with ending_well(WrongOutputs, ValueError, OSError, RuntimeError):
        if args.check:
            check(args)
        else:
            print(report(args))


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = parser_of(__doc__)
    results = f"of serve_bench.py; default {MEASURED.name}"
    parser.add_argument("--results", type=Path, default=MEASURED, metavar="FILE", help=results)
    parser.add_argument("--keep-ratio", type=float, default=0.11)
    values = "bytes of a value in rows and in the KV cache: 2 of 16 bits"
    parser.add_argument("--value-bytes", type=int, default=2, help=values)
    add = parser.add_argument_group("what is asked, by default as it was measured").add_argument
    add("--requests-per-s", type=float, help="of all clients; default 1")
    add("--images", type=int, help="of a request, new to all caches; default 1")
    add("--visual-tokens", type=int, help="of an image, without pruning")
    add("--text-tokens", type=int, help="of a prompt, without the visual ones")
    add("--output-tokens", type=int, help="of an answer")
    add("--busy", type=float, help="share of its time that an instance may be busy; default 0.7")
    add = parser.add_argument_group("costs, in the place of measured ones").add_argument
    add("--encoder-ms", type=float, help="of an image, in vision tower and projector")
    add("--selection-ms", type=float, help="of an image that is pruned")
    add("--prefill-ms", type=float, help="of a token of the prompt")
    add("--attention-ms", type=float, help="of a pair of tokens of the prompt")
    add("--decode-ms", type=float, help="of a token of the answer")
    add("--at-once", type=int, help="requests that a language model has at a time")
    add("--row-bytes", type=int, help="of a visual token between instances")
    add("--kv-bytes", type=int, help="of a token in the KV cache")
    add = parser.add_argument_group("the check").add_argument
    add("--check", action="store_true", help="measure one server and a pair, and compare")
    named = f"checkpoint, or random weights to write: {', '.join(NAMED)}"
    add("--model", default="cpu-20m", help=named)
    add("--size", type=size_of, default=size_of("336x336"), help="of random pictures")
    add("--concurrency", type=int, default=8, help="requests at a time")
    add("--requests", type=int, default=24, help="of a block")
    add("--repetitions", type=int, default=2, help="blocks of each keep ratio")
    add("--out", type=Path, default=Path("runs/scale"), help="folder of results")
    own, flags = split_arguments(argv)
    args = parser.parse_args(own)
    args.server_flags = flags
    return args


def given(args: argparse.Namespace, kind: type[Load] | type[Costs]) -> dict[str, float]:
    """The fields of a dataclass that are on the command line."""
    values = {field.name: getattr(args, field.name) for field in fields(kind)}
    return {name: value for name, value in values.items() if value is not None}


def report(args: argparse.Namespace) -> str:
    """What the load takes, unpruned and pruned.

    Raises:
        ValueError: a cost is neither measured nor given, or no instance may be busy.
    """
    arms = busiest(read_lines(args.results))
    costs = costs_of(arms, args.keep_ratio, args.value_bytes, **given(args, Costs))
    load = load_of(arms, **given(args, Load))
    both = [Deployment(costs, load, ratio) for ratio in falling(1.0, args.keep_ratio)]
    about = arms[0]["about"]
    heads = [f"Modelled, with costs of {about['model']} on {about['machine']}"]
    heads.append(f"({args.results.name}, {about['date']}):")
    known = "\n".join(f"- {name}: {value:.4g}" for name, value in asdict(costs).items())
    asked = "\n".join(f"- {name}: {value:g}" for name, value in asdict(load).items())
    return f"{' '.join(heads)}\n\n{known}\n\nAsked:\n\n{asked}\n\n{table(both)}"


def falling(*ratios: float) -> list[float]:
    """Keep ratios, each of them once, the largest first."""
    return sorted(set(ratios), reverse=True)


def table(deployments: Sequence[Deployment]) -> str:
    """A column for each deployment."""
    rows = {
        "prompt tokens": [f"{each.prompt_tokens:,}" for each in deployments],
        "encoder and selection, ms a request": [f"{each.encoder_ms:.1f}" for each in deployments],
        "language model, ms a request": [f"{each.language_ms:.1f}" for each in deployments],
        "servers that do both": [f"{each.servers}" for each in deployments],
        "or encoder instances": [f"{each.encoders}" for each in deployments],
        "and language models": [f"{each.language_models}" for each in deployments],
        "between these, MB/s": [f"{each.network_bytes_per_s / 1e6:.1f}" for each in deployments],
        "KV cache of a request, MiB": [f"{each.kv_bytes / 2**20:.1f}" for each in deployments],
        f"of {deployments[0].costs.at_once} in an instance, GiB": [
            f"{each.kv_bytes_of_instance / 2**30:.2f}" for each in deployments
        ],
    }
    header = ["", *(f"keep ratio {each.keep_ratio:g}" for each in deployments)]
    return markdown(header, [[name, *values] for name, values in rows.items()])


def check(args: argparse.Namespace) -> None:
    """Measure one server and a pair, and write what was modelled beside it."""
    on_cpu = not accelerator()
    if on_cpu:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB of each server
    flags = [*default_flags(on_cpu), "--dtype", "float32", *args.server_flags]
    shown = f"{args.model}, random weights" if args.model in NAMED else Path(args.model).name
    about = describe(shown, 32, 16, 0, flags)
    arms = tuple(Arm(SCRIPT, ratio) for ratio in falling(1.0, 0.5, args.keep_ratio))
    cell = Cell(str(args.size), arms, args.requests, args.repetitions, args.concurrency)
    args.out.mkdir(parents=True, exist_ok=True)
    expected = Expected(written(args.model))
    with (
        tempfile.TemporaryDirectory() as rows,
        servers(expected.model, flags, Path(rows)) as targets,
    ):
        lines = measure(cell, expected, targets, Path(rows), about, args.out)
    write_lines(args.out / "results.jsonl", lines)
    publish(args.out, check_report(lines))


if __name__ == "__main__":
    main()
