"""What later questions about a picture cost: stock vLLM against each policy of conversations.

    python benchmarks/conversation_bench.py    # about ten minutes on two CPU cores

Starts `vllm serve` without the plugin and with it, and has the same chats with both, one request at
a time, all caches on: a picture that no server has seen, and question after question about it. An
arm is stock, or a policy at --keep-ratio; arms take turns, and begin in another order in every
round. Prints, and writes to OUT/report.md, the medians of the seconds to the answer's only token,
turn by turn, and ratios to stock with their 95 % intervals. Ends with an error if a request fails,
or if a policy changes how many tokens a prompt has.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np
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
from vllm_script.benchmarks.serving.cells import SCRIPT, STOCK
from vllm_script.benchmarks.serving.checks import WrongOutputs
from vllm_script.benchmarks.serving.expected import Expected
from vllm_script.benchmarks.serving.fleet import Fleet, Target, default_flags
from vllm_script.benchmarks.serving.measure import SETTLE_SECONDS
from vllm_script.benchmarks.serving.requests import make_requests, random_text
from vllm_script.benchmarks.serving.results import describe
from vllm_script.config import CONVERSATIONS

ARMS = (STOCK, *CONVERSATIONS)
ANSWER_TOKENS = 16
"""Of what the assistant is said to have answered to an earlier question."""

Seconds = dict[str, list[list[float]]]
"""arm -> of each chat, the seconds of each turn."""


def main() -> None:
    parser = parser_of(__doc__)
    random = ", ".join(NAMED)
    parser.add_argument(
        "--model", default="cpu-108m", help=f"checkpoint, or random weights to write: {random}"
    )
    parser.add_argument("--size", default="672x672", help="of random pictures, WIDTHxHEIGHT")
    parser.add_argument("--keep-ratio", type=float, default=0.11)
    parser.add_argument("--input-tokens", type=int, default=32, help="of each question")
    parser.add_argument("--turns", type=int, default=3, help="questions about a picture")
    parser.add_argument("--repetitions", type=int, default=6, help="chats of each arm")
    parser.add_argument("--out", type=Path, default=Path("runs/conversation"), help="folder")
    args = parser.parse_args()
    on_cpu = not accelerator()
    if on_cpu:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB of each server
    flags = default_flags(on_cpu)
    shown = f"{args.model}, random weights" if args.model in NAMED else Path(args.model).name
    about = describe(shown, args.input_tokens, 1, 0, flags)
    args.out.mkdir(parents=True, exist_ok=True)
    with ending_well(WrongOutputs, OSError, RuntimeError, httpx.HTTPError):
        expected = Expected(written(args.model))
        rounds = args.repetitions + 1  # the first is a warm-up
        with Fleet(expected.model, flags, {}) as fleet, tqdm(total=rounds, unit="round") as bar:
            targets = fleet.provide((STOCK, SCRIPT), 0, bar.set_description_str)
            bar.set_description_str("chatting")
            seconds = measure(args, expected.tokenizer, targets, bar)
    publish(args.out, report(about | {"keep ratio": args.keep_ratio}, seconds))


def measure(
    args: argparse.Namespace, tokenizer: Any, targets: Mapping[str, Target], bar: Any
) -> Seconds:
    """Have the chats.

    Raises:
        WrongOutputs: a policy changes how many tokens a prompt has, or there are not fewer of them
            than in stock's.
        httpx.HTTPError: a request failed.
    """
    seconds: Seconds = {arm: [] for arm in ARMS}
    for number in range(bar.total):
        tokens: dict[str, list[int]] = {}
        for place in range(len(ARMS)):
            arm = ARMS[(place + number) % len(ARMS)]
            messages = chat(args, tokenizer, (number,))
            target = targets[STOCK if arm == STOCK else SCRIPT]
            script = None
            if arm != STOCK:
                script = {"keep_ratio": args.keep_ratio, "conversation": arm}
            time.sleep(SETTLE_SECONDS)
            turns = [ask(target, messages[: 2 * turn + 1], script) for turn in range(args.turns)]
            tokens[arm] = [count for _, count in turns]
            if number:
                seconds[arm].append([spent for spent, _ in turns])
        check(tokens)
        bar.update()
    return seconds


def chat(args: argparse.Namespace, tokenizer: Any, seed: Sequence[int]) -> list[dict[str, Any]]:
    """Messages of a chat about a picture that no server has seen; every second one is an answer.

    The texts are those of the seed, the picture is another one every time.
    """
    (first,) = make_requests(args.size, tokenizer, args.input_tokens, seed, 1)
    messages = [first.message]
    rng = np.random.default_rng([*seed, 1])
    for _ in range(args.turns - 1):
        for role, length in (("assistant", ANSWER_TOKENS), ("user", args.input_tokens)):
            messages.append({"role": role, "content": random_text(rng, tokenizer, length)})
    return messages


def ask(
    target: Target, messages: Sequence[Mapping[str, Any]], script: Mapping[str, Any] | None
) -> tuple[float, int]:
    """Seconds until one token is there, and the tokens of the prompt."""
    body = {"model": target.model, "messages": messages, "max_tokens": 1, "temperature": 0}
    if script is not None:
        body["script"] = script
    started = time.perf_counter()
    reply = httpx.post(f"{target.root}/v1/chat/completions", json=body, timeout=None)
    spent = time.perf_counter() - started
    reply.raise_for_status()
    return spent, reply.json()["usage"]["prompt_tokens"]


def check(tokens: Mapping[str, Sequence[int]]) -> None:
    """Raise WrongOutputs unless all policies prune prompts to the same lengths."""
    pruned = {tuple(tokens[policy]) for policy in CONVERSATIONS}
    (lengths,) = pruned if len(pruned) == 1 else ((),)
    if not lengths or any(p >= s for p, s in zip(lengths, tokens[STOCK], strict=True)):
        raise WrongOutputs(f"prompts of the turns have these tokens: {dict(tokens)}")


def report(about: Mapping[str, object], seconds: Seconds) -> str:
    """Medians, and ratios to stock's, turn by turn."""
    turns = range(len(seconds[STOCK][0]))
    header = ["arm", *(f"question {turn + 1}, ms" for turn in turns)]
    header += [f"question {turn + 1}, times stock's" for turn in turns]
    rows = []
    for arm, chats in seconds.items():
        of_turns = list(zip(*chats, strict=True))
        row = [arm, *(f"{1000 * median(of_turn):.0f}" for of_turn in of_turns)]
        stock = list(zip(*seconds[STOCK], strict=True))
        if arm != STOCK:
            row += [paired_ratio(o, s).shown(".3f") for o, s in zip(of_turns, stock, strict=True)]
        rows.append([*row, *[""] * (len(header) - len(row))])
    how = (
        f"Medians of {len(seconds[STOCK])} chats of each arm, which took turns. Ratios are "
        "geometric means over rounds, in brackets their 95 % interval."
    )
    return f"{bullets(about)}\n\n{how}\n\n{markdown(header, rows)}\n"


if __name__ == "__main__":
    main()
