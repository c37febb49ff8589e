"""A server that may neither wait for the GPU nor compile anything once it has started.

    python benchmarks/strict_serving.py                           # the model in the package
    python benchmarks/strict_serving.py --model qwen2.5-vl-20m    # random weights, videos as well

Starts `vllm serve MODEL --plugin script` under VLLM_GPU_SYNC_CHECK=error and --jit-monitor-mode
error: a step that waits for the GPU, or has a kernel compiled, then ends vLLM's engine. Asks about
pictures of all sizes, new ones and known ones with new questions, several at once, under every mode
and relevance, in conversations, and about videos where the plugin prunes them: first one request
at a time, then eight. Ends with an error unless each gets its answer with exactly the prompt tokens
expected, the log has no error, and vLLM did watch, which it does on NVIDIA GPUs alone. After an
error in the log stock vLLM is asked the same under the same checks: it may be its own. Writes
OUT/report.md, OUT/checks.jsonl and the servers' logs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image
from tqdm import tqdm

from vllm_script.benchmarks.checkpoints import written
from vllm_script.benchmarks.common import (
    accelerator,
    bullets,
    data_url,
    ending_well,
    machine,
    markdown,
    parser_of,
    publish,
    repeatable,
    write_lines,
)
from vllm_script.benchmarks.serving.expected import Expected
from vllm_script.benchmarks.serving.fleet import NO_PLUGINS
from vllm_script.benchmarks.serving.requests import make_requests
from vllm_script.benchmarks.soaking.client import Outcome, Request, send
from vllm_script.benchmarks.soaking.clients import http_client
from vllm_script.benchmarks.soaking.ledger import Ledger
from vllm_script.benchmarks.soaking.mix import MAX_IMAGES, Mix
from vllm_script.benchmarks.soaking.verdict import Check, bad_lines
from vllm_script.server.aliases import SCRIPT_DEMO, repository_of
from vllm_script.server.launch import VllmServer

NAME, KEEP_RATIO, CONTEXT, AT_ONCE = "strict", 0.11, 2048, 8
WATCHING = {"VLLM_GPU_SYNC_CHECK": "error"}
ENVIRONMENT = WATCHING | {"VLLM_CPU_KVCACHE_SPACE": "1"}  # GiB, where there is no GPU
WATCHES_COMPILATION = re.compile(r"Kernel JIT monitor activated.*mode=error")
"""What a worker logs that fails when a kernel is compiled."""
SLOWER = re.compile(
    r"during inference:|Script's \w+ runs in PyTorch|launches its kernels phase by phase"
)
"""What is logged of a compilation that only warns, and of kernels that the device refuses."""
ASKS_SYNC_CHECK = "from vllm.utils import gpu_sync_debug as g; print(g._SYNC_CHECK_MODE)"
DRAWS = {"question": 30, "gallery": 6, "conversation": 6, "stream": 6}
"""Methods of `Mix`, and how often each is called for one pass."""
VIDEOS = ("8x224x224", "5x448x336")
"""Frames, width and height."""
SCENE = Path(__file__).with_name("scene.png")
ANSWERS = {"What color is the cross?": "blue", "Which digit is yellow?": "4"}
"""What script-demo says of the scene."""


def main() -> None:
    args = parse_arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    with ending_well(ValueError, OSError, RuntimeError, httpx.HTTPError):
        expected = Expected(repository_of(args.model) or written(args.model))
        flags = server_flags(expected.modalities, on_cpu=not accelerator())
        checks, log = examine(expected, flags, args.model == SCRIPT_DEMO)
        (args.out / "server.log").write_text(log, encoding="utf-8")
        stock = None
        if bad_lines(log):
            stock = stock_log(expected, flags)
            (args.out / "stock.log").write_text(stock, encoding="utf-8")
        write_lines(args.out / "checks.jsonl", map(asdict, checks))
        about = {"model": args.model, "server flags": " ".join(flags), "machine": machine()}
        publish(args.out, report(about | repeatable(), checks, stock))
    sys.exit(not all(check.passed for check in checks))


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--model", default=SCRIPT_DEMO, help="checkpoint: a name or a folder")
    parser.add_argument("--out", type=Path, default=Path("runs/strict"), help="folder of results")
    return parser.parse_args(argv)


def server_flags(modalities: Sequence[str], on_cpu: bool) -> list[str]:
    """Arguments of the servers. With --enforce-eager vLLM would not watch for compilation."""
    flags = ["--served-model-name", NAME, "--max-model-len", str(CONTEXT)]
    limits = {name: MAX_IMAGES if name == "image" else 1 for name in modalities}
    flags += ["--limit-mm-per-prompt", json.dumps(limits)]
    return [*flags, "--jit-monitor-mode", "error", *(["--enforce-eager"] if on_cpu else [])]


def examine(
    expected: Expected, flags: Sequence[str], knows_scenes: bool
) -> tuple[list[Check], str]:
    """Serve a model and ask it everything.

    Args:
        expected: of the model.
        knows_scenes: whether it has been trained to answer about `SCENE`.

    Returns:
        what was checked, the requests first, and the server's log.
    """
    ledger, answers = Ledger(), []
    passes = [list(asked(expected, seed)) for seed in (0, 1)]
    script = ("--plugin", "script", "--keep-ratio", str(KEEP_RATIO), *flags)
    with VllmServer(expected.model, *script, env=ENVIRONMENT, progress=waiting) as server:
        root = server.url.removesuffix("/v1")
        for at_once, requests in zip((1, AT_ONCE), passes, strict=True):
            asyncio.run(ask_all(root, requests, at_once, ledger.add))
        if knows_scenes:
            answers = asyncio.run(ask_scenes(root))
        log = server.log()
    number = ledger.statuses.total()
    checks = [
        Check("requests", not ledger.errors, f"{number} requests, {len(ledger.errors)} wrong"),
        in_log(log),
        watched(log),
    ]
    if knows_scenes:
        right = answers == list(ANSWERS.values())
        checks.append(Check("answers about a scene", right, ", ".join(map(repr, answers))))
    return checks, log


def asked(expected: Expected, seed: int) -> Iterator[Request]:
    """All requests of one pass; another seed asks about other new pictures."""
    mix, rng = Mix(expected, NAME, KEEP_RATIO, CONTEXT), random.Random(seed)
    for kind, count in DRAWS.items():
        draw: Callable[[random.Random], list[Request]] = getattr(mix, kind)
        for _ in range(count):
            yield from draw(rng)
    if "video" in expected.modalities:
        yield from about_videos(expected, seed)


def about_videos(expected: Expected, seed: int) -> Iterator[Request]:
    """Questions about two new videos of each size."""
    for size in VIDEOS:
        for video in make_requests(size, expected.tokenizer, 8, [seed], 2):
            _, kept = expected.before_and_after(video.size, keep_ratio=KEEP_RATIO)
            body = {"model": NAME, "messages": [video.message], "max_tokens": 4, "temperature": 0}
            yield Request("video", body, prompt_tokens=expected.text_tokens(video) + kept)


async def ask_all(
    root: str,
    requests: Sequence[Request],
    at_once: int,
    answered: Callable[[Request, Outcome], None] = lambda request, outcome: None,
) -> None:
    """Send requests, so many at a time; `answered` is called with each that has ended."""
    turns = asyncio.Semaphore(at_once)
    bar = tqdm(total=len(requests), unit="request", desc=f"{at_once} at a time")

    async def ask(http: httpx.AsyncClient, request: Request) -> None:
        async with turns:
            answered(request, await send(http, request))
        bar.update()

    with bar:
        async with http_client(root) as http:
            await asyncio.gather(*(ask(http, request) for request in requests))


async def ask_scenes(root: str) -> list[str]:
    """The server's answers to the questions of `ANSWERS`."""
    url = data_url(np.asarray(Image.open(SCENE).convert("RGB")))
    answers = []
    async with http_client(root) as http:
        for question in ANSWERS:
            shown = {"type": "image_url", "image_url": {"url": url}}
            content: list[Any] = [shown, {"type": "text", "text": question}]
            body = {"model": NAME, "messages": [{"role": "user", "content": content}]}
            outcome = await send(http, Request("", body | {"max_tokens": 8, "temperature": 0}))
            answers.append(outcome.text.strip())
    return answers


def in_log(log: str) -> Check:
    """No error in a server's log, no compilation, and no kernel that the device refuses."""
    found = bad_lines(log) or [line for line in log.splitlines() if SLOWER.search(line)]
    return Check("errors in the log", not found, found[0][:300] if found else "none")


def watched(log: str) -> Check:
    """Whether vLLM did look for waits and for compilation."""
    env = os.environ | WATCHING
    command = [sys.executable, "-c", ASKS_SYNC_CHECK]
    asked = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    waits = asked.stdout.split()[-1:] == ["error"]
    compiled = bool(WATCHES_COMPILATION.search(log))
    found = f"for waits: {'yes' if waits else 'no'}, for compilation: {'yes' if compiled else 'no'}"
    return Check("vLLM watched", waits and compiled, found)


def stock_log(expected: Expected, flags: Sequence[str]) -> str:
    """What stock vLLM logs under the same checks, asked about single pictures."""
    requests = [r for r in asked(expected, 0) if r.kind in ("question", "stream", "video")]
    bodies = ({k: v for k, v in request.body.items() if k != "script"} for request in requests)
    plain = [replace(r, body=body) for r, body in zip(requests, bodies, strict=True)]
    try:
        env = ENVIRONMENT | NO_PLUGINS
        with VllmServer(expected.model, *flags, env=env, progress=waiting) as server:
            asyncio.run(ask_all(server.url.removesuffix("/v1"), plain, at_once=1))
            return server.log()
    except RuntimeError as error:
        return f"ERROR {error}"


def waiting(seconds: float) -> None:
    """Say that a server is starting."""
    if round(seconds) % 10 == 0:
        print(f"starting the server, {seconds:.0f} s", file=sys.stderr, flush=True)


def report(about: dict[str, str], checks: Sequence[Check], stock: str | None) -> str:
    """Markdown; `stock`: the log of stock vLLM, where it was asked."""
    rows = [[c.name, "yes" if c.passed else "**no**", c.found] for c in checks]
    parts = ["# No waits, no compilation", bullets(about)]
    parts.append(markdown(["what must hold", "holds", "found"], rows))
    if stock is not None:
        own = in_log(stock)
        fault = "none: the errors come with the plugin" if own.passed else own.found
        parts.append(f"Errors in the log of stock vLLM under the same checks: {fault}.")
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
