"""The plugin against another version of it: what selection takes of the time to first token.

    git worktree add --detach OTHER COMMIT    # and an environment of its own in there
    python benchmarks/version_bench.py --other OTHER/.venv/bin/python

Starts a server with each, asks them in turns, one request at a time, and stops them. Every request
has a picture that no server has seen. Prints, and writes to OUT/report.md, the medians of the
blocks, and ratios with their 95 % intervals. Ends with an error if a request fails or has other
token counts than expected.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from tqdm import tqdm

from vllm_script.benchmarks.checkpoints import NAMED, written
from vllm_script.benchmarks.common import (
    accelerator,
    bullets,
    ending_well,
    markdown,
    parser_of,
    publish,
)
from vllm_script.benchmarks.intervals import paired_ratio
from vllm_script.benchmarks.serving.cells import SCRIPT, Arm
from vllm_script.benchmarks.serving.checks import WrongOutputs, check_block
from vllm_script.benchmarks.serving.driver import load_arguments, run_block
from vllm_script.benchmarks.serving.expected import Expected
from vllm_script.benchmarks.serving.fleet import FLAGS, Target, default_flags, target_at
from vllm_script.benchmarks.serving.measure import SETTLE_SECONDS
from vllm_script.benchmarks.serving.requests import make_requests
from vllm_script.benchmarks.serving.results import describe, time_split
from vllm_script.server.launch import VllmServer

OTHER, THIS = "other", "this"
PARTS = ("preprocess", "encoder", "selection", "prefill")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--other", type=Path, required=True, help="Python of the other version")
    parser.add_argument("--name", default="other", help="what the report calls that version")
    random = ", ".join(NAMED)
    parser.add_argument(
        "--model", default="cpu-108m", help=f"checkpoint, or random weights to write: {random}"
    )
    parser.add_argument("--size", default="672x672", help="of random pictures, WIDTHxHEIGHT")
    parser.add_argument("--keep-ratio", type=float, default=0.11)
    parser.add_argument("--input-tokens", type=int, default=32, help="of the text of a request")
    parser.add_argument("--requests", type=int, default=4, help="of a block")
    parser.add_argument("--repetitions", type=int, default=6, help="blocks of each version")
    parser.add_argument("--out", type=Path, default=Path("runs/versions"), help="folder")
    args = parser.parse_args()
    on_cpu = not accelerator()
    if on_cpu:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB of each server
    flags = [*FLAGS[SCRIPT], *default_flags(on_cpu)]
    shown = f"{args.model}, random weights" if args.model in NAMED else Path(args.model).name
    about = describe(shown, args.input_tokens, 1, 0, flags)
    args.out.mkdir(parents=True, exist_ok=True)
    with ending_well(WrongOutputs, OSError, RuntimeError), ExitStack() as stack:
        expected = Expected(written(args.model))
        targets = {}
        for kind, python in ((OTHER, str(args.other)), (THIS, None)):
            server = stack.enter_context(VllmServer(expected.model, *flags, python=python))
            targets[kind] = target_at(kind, server.url)
        splits = _measure(args, expected, targets)
    publish(args.out, _report(about, {OTHER: args.name, THIS: THIS}, splits))


def _measure(
    args: argparse.Namespace, expected: Expected, targets: Mapping[str, Target]
) -> dict[str, list[dict[str, float]]]:
    """Milliseconds of the parts of the time to first token, of each block of each version.

    Raises:
        WrongOutputs: a request failed, or has other token counts than expected.
    """
    splits: dict[str, list[dict[str, float]]] = {kind: [] for kind in targets}
    arm = Arm(SCRIPT, args.keep_ratio)
    turns = [
        (number, kind)
        for number in range(args.repetitions + 1)  # the first block of each is a warm-up
        for kind in ((OTHER, THIS) if number % 2 else (THIS, OTHER))
    ]
    for number, kind in tqdm(turns, unit="block"):
        requests = list(
            make_requests(
                args.size, expected.tokenizer, args.input_tokens, (number,), args.requests
            )
        )
        time.sleep(SETTLE_SECONDS)
        arguments = load_arguments(1, None, 1, args.keep_ratio, number)
        block = run_block(targets[kind], expected.model, requests, arguments, args.out, False)
        kept = [expected.kept_by(arm, request.size) for request in requests]
        texts = [expected.text_tokens(request) for request in requests]
        check_block(block, [text + rows for text, rows in zip(texts, kept, strict=True)], 1)
        if number:
            splits[kind].append({name: part or 0.0 for name, part in time_split([block]).items()})
    return splits


def _report(
    about: Mapping[str, object],
    names: Mapping[str, str],
    splits: Mapping[str, Sequence[Mapping[str, float]]],
) -> str:
    """A table of the medians, and the ratios of this version to the other."""
    rows = []
    for kind, blocks in splits.items():
        parts = [f"{median(block[part] for block in blocks):.1f}" for part in PARTS]
        total = f"{median(sum(block.values()) for block in blocks):.1f}"
        share = f"{100 * median(map(_share, blocks)):.1f} %"
        rows.append([names[kind], str(len(blocks)), *parts, total, share])
    header = ["version", "blocks", *(f"{part}, ms" for part in PARTS), "TTFT, ms"]
    other, this = splits[OTHER], splits[THIS]
    ratios = {
        "Selection": ([b["selection"] for b in this], [b["selection"] for b in other]),
        "Its share of the time to first token": (
            [_share(block) for block in this],
            [_share(block) for block in other],
        ),
        "The time to first token": (
            [sum(block.values()) for block in this],
            [sum(block.values()) for block in other],
        ),
    }
    said = "\n".join(
        f"- {name}: {paired_ratio(*pair).shown('.3f')} times that of {names[OTHER]}"
        for name, pair in ratios.items()
    )
    return (
        f"{bullets(about)}\n\nMedians of blocks, whose order is A B B A; ratios are geometric "
        "means over pairs of blocks, in brackets their 95 % interval.\n\n"
        f"{markdown([*header, 'share of selection'], rows)}\n\n{said}\n"
    )


def _share(block: Mapping[str, float]) -> float:
    """The part of selection in the time to first token."""
    return block["selection"] / sum(block.values())


if __name__ == "__main__":
    main()
