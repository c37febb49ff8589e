"""Serve for a long time under everything that clients do, and see whether the server minds.

    python benchmarks/soak.py --minutes 30 --out runs/soak

Starts `vllm serve MODEL --plugin script` with caches so small that they fill and evict, and a KV
cache too small for all clients at once. For the time given, clients ask about pictures of all
sizes, new and known, one and several, in conversations, under every setting and shared uuids; they
stream, cancel, close connections, and make every mistake there is. Now and then the weights are
reloaded under them. Meanwhile /metrics and the memory of the
server's processes are looked at. Ends with an error unless every request that was right got its
200 with exactly the prompt tokens expected, every mistake its 4xx, nothing was logged as an error,
memory did not grow, and the metrics add up to what was sent. Writes OUT/report.md, OUT/server.log
and OUT/samples.jsonl, a line a look. Which requests a client draws follows from --seed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

from vllm_script.benchmarks import common
from vllm_script.benchmarks.common import ending_well, machine, parser_of, publish
from vllm_script.benchmarks.scrape import Scrape
from vllm_script.benchmarks.serving.expected import Expected
from vllm_script.benchmarks.soaking.balance import balance, caches_filled, idle
from vllm_script.benchmarks.soaking.client import send
from vllm_script.benchmarks.soaking.clients import http_client, run_clients
from vllm_script.benchmarks.soaking.ledger import Ledger
from vllm_script.benchmarks.soaking.mix import MAX_IMAGES, Mix
from vllm_script.benchmarks.soaking.report import report
from vllm_script.benchmarks.soaking.samples import sample
from vllm_script.benchmarks.soaking.verdict import (
    RETURN_FREED,
    SHORTEST,
    Check,
    growth_check,
    log_checks,
)
from vllm_script.server.aliases import SCRIPT_DEMO, repository_of
from vllm_script.server.launch import VllmServer

KEEP_RATIO = 0.11
CACHE_GB = 0.05
CONTEXT = 2048
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB, where there is no GPU
    "VLLM_SERVER_DEV_MODE": "1",  # has the route that weights are reloaded by
    **RETURN_FREED,
}
"""Environment of the server."""


def main() -> None:
    args = parse_arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    about = describe(args)
    flags = server_flags(args.cache_gb)
    with (
        ending_well(httpx.HTTPError, ValueError, OSError, RuntimeError),
        VllmServer(args.model, *flags, env=ENVIRONMENT) as server,
    ):
        try:
            checks, text = asyncio.run(soak(args, server, about))
        finally:
            (args.out / "server.log").write_text(server.log(), encoding="utf-8")
    publish(args.out, text)
    sys.exit(any(not check.passed for check in checks))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/soak"), help="folder of results")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=8, help="requests at a time")
    parser.add_argument("--reloads", type=int, default=6, help="of the weights meanwhile")
    parser.add_argument("--model", default=SCRIPT_DEMO, help="checkpoint: a name or a folder")
    parser.add_argument("--cache-gb", type=float, default=CACHE_GB, help="size of each image cache")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=float, default=10, help="seconds between two looks")
    return parser.parse_args()


def server_flags(cache_gb: float) -> list[str]:
    """Arguments of the server; its KV cache has room for one longest prompt and a little."""
    blocks = str(CONTEXT // 32 + 4)
    return [
        *("--plugin", "script", "--keep-ratio", str(KEEP_RATIO), "--served-model-name", "soak"),
        *("--script-cache-gb", str(cache_gb), "--mm-processor-cache-gb", str(cache_gb)),
        *("--limit-mm-per-prompt", json.dumps({"image": MAX_IMAGES}), "--enable-mm-embeds"),
        *("--max-model-len", str(CONTEXT), "--block-size", "32", "--enforce-eager"),
        *("--num-gpu-blocks-override", blocks, "--no-log-error-stack"),
    ]


async def soak(
    args: argparse.Namespace, server: VllmServer, about: Mapping[str, str]
) -> tuple[list[Check], str]:
    """The run, its verdict and its report."""
    process = common.process_at(server.port)
    mix = Mix(Expected(repository_of(args.model) or args.model), "soak", KEEP_RATIO, CONTEXT)
    http, ledger = http_client(server.url.removesuffix("/v1")), Ledger()
    (first,) = mix.question(random.Random(args.seed))
    answer = await send(http, first)
    if answer.prompt_tokens != first.prompt_tokens:
        raise RuntimeError(f"the first question, {first.prompt_tokens} tokens, got {answer}")
    seconds = 60 * args.minutes
    rngs = [random.Random(f"{args.seed} {number}") for number in range(args.clients)]
    samples: list[dict[str, Any]] = []
    with (
        (args.out / "samples.jsonl").open("w", encoding="utf-8") as lines,
        tqdm(total=round(seconds), unit="s", dynamic_ncols=True) as bar,
    ):

        def look(passed: float, scrape: Scrape) -> None:
            line = sample(passed, ledger, process, scrape)
            samples.append(line)
            print(json.dumps(line), file=lines, flush=True)
            bar.update(min(round(passed), bar.total) - bar.n)
            text = f"{line['requests']} requests, {line['errors']} errors"
            bar.set_postfix_str(f"{text}, {sum(line['memory_mib'].values()):.0f} MiB")

        before, after = await run_clients(
            http, mix, ledger, rngs, seconds, args.reloads, args.every, look
        )
    again = await send(http, first)
    (hang_up,) = mix.hang_up(random.Random(0))
    checks = [
        Check("wrong outcomes of requests", not ledger.errors, str(len(ledger.errors))),
        Check("the first question has the first answer", again == answer, repr(again.text)),
        idle(after),
        *balance(before, after, ledger, hang_up),
        *caches_filled([line["cache_bytes"] for line in samples], int(args.cache_gb * 2**30)),
    ]
    checks += log_checks(server.log(), ledger.resent)
    if args.minutes >= SHORTEST:
        checks.append(growth_check(samples))
    return checks, report(about, checks, ledger, samples)


def describe(args: argparse.Namespace) -> dict[str, str]:
    """What a reader needs to judge and to repeat the run."""
    return {
        "model": args.model,
        "clients": str(args.clients),
        "server flags": shlex.join(server_flags(args.cache_gb)),
        "server environment": ", ".join(f"{k}={v}" for k, v in ENVIRONMENT.items()),
        "machine": machine(),
        **common.repeatable(),
    }


if __name__ == "__main__":
    main()
