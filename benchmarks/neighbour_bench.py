"""One bad neighbour: how long others wait for their next token while one client sends big items.

    python benchmarks/neighbour_bench.py             # about five minutes on two CPU cores
    python benchmarks/neighbour_bench.py --model cpu-108m --size 672x672 --items 2

Starts `vllm serve MODEL` without any plugin (stock) and with `--plugin script`, and loads them in
turns (A B B A ...): a neighbour sends prompts full of the largest pictures that the model takes,
the next one as soon as it has an answer, while eight clients stream answers to questions without a
picture, one after the other. Both servers get the same questions, and pictures that are new to
them. What counts is the time between one token of the eight and the next. Ends with an error if a
request fails or has other token counts than expected, or if the 99th percentile with pruning is
more than --most times stock's. Flags after `--` go to every server. Writes OUT/results.jsonl, a
line a block, and report.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from tqdm import tqdm

from vllm_script.benchmarks import common
from vllm_script.benchmarks.checkpoints import NAMED, written
from vllm_script.benchmarks.common import (
    accelerator,
    bullets,
    data_url,
    ending_well,
    markdown,
    parser_of,
    publish,
)
from vllm_script.benchmarks.intervals import PERCENTILES, Interval, paired_ratio, percentiles
from vllm_script.benchmarks.serving.cells import SCRIPT, STOCK, Arm, in_turns
from vllm_script.benchmarks.serving.checks import WrongOutputs
from vllm_script.benchmarks.serving.expected import Expected
from vllm_script.benchmarks.serving.fleet import Fleet, default_flags
from vllm_script.benchmarks.serving.measure import SETTLE_SECONDS
from vllm_script.benchmarks.serving.neighbour import Load, run_block
from vllm_script.benchmarks.serving.requests import Size, random_text, size_of
from vllm_script.benchmarks.serving.results import describe

TEXT_TOKENS = 16
"""Of a question."""
SEED = 0
QUESTIONS = 4
"""Of each client, which asks them over and over."""
SQUARE = 28
"""Side in pixels of what a picture is made of: compressed it is small, and no two patches alike."""


def main() -> None:
    args = parse_arguments()
    on_cpu = not accelerator()
    if on_cpu:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB of each server
    args.out.mkdir(parents=True, exist_ok=True)
    with ending_well(WrongOutputs, ValueError, OSError, RuntimeError, httpx.HTTPError):
        lines = measure(args, default_flags(on_cpu))
        (args.out / "results.jsonl").write_text("".join(json.dumps(ln) + "\n" for ln in lines))
        ratio = p99_ratio(lines)
        publish(args.out, report(lines, args.most))
    sys.exit(ratio.value > args.most)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/neighbour"), help="of results")
    named = f"checkpoint, or random weights to write: {', '.join(NAMED)}"
    parser.add_argument("--model", default="qwen2.5-vl-20m", help=named)
    size = "WIDTHxHEIGHT of the neighbour's pictures; the default is the largest of the model"
    parser.add_argument("--size", type=size_of, default=size_of("1260x1260"), help=size)
    items = "in a prompt of the neighbour; four is what stock's context has room for"
    parser.add_argument("--items", type=int, default=4, help=items)
    parser.add_argument(
        "--keep-ratio", type=float, default=0.11, help="of the neighbour's pictures"
    )
    parser.add_argument("--clients", type=int, default=8, help="that stream answers")
    parser.add_argument("--prompts", type=int, default=6, help="of the neighbour in a block")
    parser.add_argument("--output-tokens", type=int, default=64, help="of an answer")
    parser.add_argument("--repetitions", type=int, default=3, help="blocks of each server")
    most = "times stock's 99th percentile that the plugin's may be"
    parser.add_argument("--most", type=float, default=1.2, help=most)
    own, flags = common.split_arguments(argv)
    args = parser.parse_args(own)
    args.server_flags = flags
    return args


def measure(args: argparse.Namespace, flags: Sequence[str]) -> list[dict[str, Any]]:
    """A line of each block, in the order in which they were measured."""
    expected = Expected(written(args.model))
    flags = [*flags, *args.server_flags]
    shown = f"{args.model}, random weights" if args.model in NAMED else Path(args.model).name
    about = describe(shown, TEXT_TOKENS, args.output_tokens, SEED, flags)
    arms = (Arm(STOCK), Arm(SCRIPT, args.keep_ratio))
    turns = in_turns(arms, args.repetitions)
    lines = []
    with (
        Fleet(expected.model, flags, {}) as fleet,
        tqdm(total=len(turns), unit="block", dynamic_ncols=True) as bar,
    ):
        targets = fleet.provide({arm.server for arm in arms}, 0, bar.set_postfix_str)
        for arm in arms:  # first times are slow
            asyncio.run(run_block(targets[arm.server], load_of(args, expected, arm, 0)))
        for repetition, arm in turns:
            bar.set_postfix_str(str(arm))
            load = load_of(args, expected, arm, repetition + 1)
            time.sleep(SETTLE_SECONDS)
            gaps = asyncio.run(run_block(targets[arm.server], load))
            lines.append(line_of(arm, repetition, load, gaps, about))
            bar.update()
    return lines


def load_of(args: argparse.Namespace, expected: Expected, arm: Arm, repetition: int) -> Load:
    """What is sent in a block: the same to all arms of a repetition, but for pictures' noise."""
    rng = np.random.default_rng([SEED, repetition])
    texts = [
        [random_text(rng, expected.tokenizer, TEXT_TOKENS) for _ in range(QUESTIONS)]
        for _ in range(args.clients)
    ]
    sizes = [args.size] * args.items
    prompts = [message_of(sizes) for _ in range(args.prompts)]
    tokens = expected.tokens_beside(prompts[:1], sizes)
    tokens += args.items * expected.kept_by(arm, args.size)
    return Load(texts, args.output_tokens, prompts, tokens, arm.asked)


def message_of(sizes: Sequence[Size]) -> dict[str, Any]:
    """A user message with pictures that nobody has seen, of coloured squares."""
    rng = np.random.default_rng()
    parts: list[dict[str, Any]] = [{"type": "text", "text": "what is shown in these pictures"}]
    for width, height, _ in sizes:
        squares = rng.integers(0, 256, (-(-height // SQUARE), -(-width // SQUARE), 3), np.uint8)
        pixels = squares.repeat(SQUARE, 0).repeat(SQUARE, 1)[:height, :width]
        parts.append({"type": "image_url", "image_url": {"url": data_url(pixels)}})
    return {"role": "user", "content": parts}


def line_of(
    arm: Arm, repetition: int, load: Load, gaps: Sequence[float], about: dict[str, Any]
) -> dict[str, Any]:
    """What is kept of a block."""
    return {
        "arm": str(arm),
        "repetition": repetition,
        "neighbour_prompt_tokens": load.prompt_tokens,
        "itl_ms": percentiles(gaps),
        "itl_s": [round(gap, 4) for gap in gaps],
        "about": about,
    }


def p99_ratio(lines: Sequence[dict[str, Any]]) -> Interval:
    """The 99th percentile with pruning to stock's, over pairs of blocks."""
    stock, pruned = (
        [line["itl_ms"]["p99"] for line in sorted(own, key=lambda line: line["repetition"])]
        for own in by_arm(lines).values()
    )
    return paired_ratio(pruned, stock)


def by_arm(lines: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The lines of each arm, stock's first."""
    arms = sorted({line["arm"] for line in lines}, key=lambda arm: arm != STOCK)
    return {arm: [line for line in lines if line["arm"] == arm] for arm in arms}


def report(lines: Sequence[dict[str, Any]], most: float) -> str:
    """The table of both servers, and the verdict."""
    about, ratio = lines[-1]["about"], p99_ratio(lines)
    header = ["server", "blocks", "tokens of the eight", *(f"ITL p{p}, ms" for p in PERCENTILES)]
    header += ["longest, ms", "p99 of each block, ms", "tokens of the neighbour's prompts"]
    rows = []
    for arm, own in by_arm(lines).items():
        gaps: list[float] = sum((line["itl_s"] for line in own), [])
        row = [arm, str(len(own)), str(len(gaps))]
        row += [f"{value:.0f}" for value in percentiles(gaps).values()]
        row.append(f"{1000 * max(gaps):.0f}")
        row.append(", ".join(f"{line['itl_ms']['p99']:.0f}" for line in own))
        rows.append([*row, str(own[0]["neighbour_prompt_tokens"])])
    verdict = "at most" if ratio.value <= most else "**more than**"
    return (
        f"# One bad neighbour\n\n{bullets(about)}\n\n{markdown(header, rows)}\n\n"
        f"p99 inter-token latency is {ratio.shown('.2f')} times stock's, {verdict} {most:g}: a "
        "geometric mean over pairs of blocks, in brackets its 95 % interval.\n"
    )


if __name__ == "__main__":
    main()
