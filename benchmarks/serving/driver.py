"""One block: `vllm bench serve` on one server, and what it and the server's /metrics say."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from ..scrape import fetch
from .cells import Load
from .counters import Counts, Peaks, when_counted
from .fleet import Target
from .requests import Request


@dataclass(frozen=True)
class Block:
    """What one run of the load generator found; lists have an entry a request, times in seconds."""

    ttft: list[float]
    tpot: list[float]
    e2e: list[float]
    prompt_tokens: list[int]
    """As the server reports them."""
    output_tokens: list[int]
    """As the server reports them."""
    errors: list[str]
    """Empty texts where a request was answered."""
    requests_per_s: float
    grown: Counts
    """What the server's counters grew by."""
    peak_running: int
    """Most requests in the engine at a time."""
    peak_kv_usage: float
    """Largest part of the KV cache in use."""


def load_arguments(load: Load, rate: float | None, seed: int) -> list[str]:
    """How requests come, for `vllm bench serve`; `rate` in requests/s where the load has one."""
    if rate is not None:
        return ["--request-rate", f"{rate:.4f}", "--seed", str(seed)]
    return ["--max-concurrency", str(load.concurrency), "--seed", str(seed)]


def request_arguments(output_tokens: int, keep_ratio: float | None) -> list[str]:
    """What every request asks for."""
    arguments = ["--custom-output-len", str(output_tokens), "--ignore-eos", "--temperature", "0"]
    if keep_ratio is not None:
        arguments += ["--extra-body", json.dumps({"script": {"keep_ratio": keep_ratio}})]
    return arguments


def run_block(
    target: Target,
    model: str,
    requests: Sequence[Request],
    arguments: Sequence[str],
    folder: Path,
    watch: bool,
) -> Block:
    """Send the requests and read what became of them.

    Args:
        model: checkpoint, for its tokenizer.
        arguments: of `vllm bench serve`, what this function does not know.
        folder: gets bench.log.
        watch: look at /metrics meanwhile, twice a second, for peaks.
    """
    command = ["--backend", "openai-chat", "--endpoint", "/v1/chat/completions"]
    command += ["--base-url", target.root, "--model", model, "--served-model-name", target.model]
    command += ["--dataset-name", "custom", "--num-prompts", str(len(requests)), *arguments]
    before = fetch(target.root)
    peaks = Peaks(target.root)
    with (
        (folder / "bench.log").open("a", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
        peaks if watch else contextlib.nullcontext(),
    ):
        print("$ vllm bench serve", *command)
        result = load_generator(command, requests)
    answered = sum(not error for error in result["errors"])
    return to_block(result, when_counted(target.root, before, answered), peaks)


def load_generator(command: Sequence[str], requests: Sequence[Request]) -> dict[str, Any]:
    """Run `vllm bench serve` inside this process, and return what it would save.

    It is handed the requests: of its own data sets, custom_image takes pictures alone, and
    random-mm draws videos from a seed and encodes them, where ours are new to every server.
    """
    from vllm.benchmarks import serve
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    logging.getLogger("vllm").setLevel(logging.WARNING)
    parser = FlexibleArgumentParser()
    serve.add_cli_args(parser)
    args = parser.parse_args([*command, "--disable-tqdm", "--save-detailed"])
    try:
        with mock.patch.object(serve, "get_samples", lambda args, _: to_samples(requests, args)):
            return asyncio.run(serve.main_async(args))
    finally:
        gc.unfreeze()  # it freezes what is alive, as if its process were to end after it


def to_samples(requests: Sequence[Request], args: Any) -> list[Any]:
    """The requests as the load generator has them; `args`: its own."""
    from vllm.benchmarks.datasets import SampleRequest

    return [
        SampleRequest(
            prompt=request.text,
            prompt_len=0,  # the server says how long it is
            expected_output_len=args.custom_output_len,
            request_id=f"{args.request_id_prefix}{number}",
            chat_messages=[request.message],
        )
        for number, request in enumerate(requests)
    ]


def to_block(result: dict[str, Any], grown: Counts, peaks: Peaks) -> Block:
    """Read a result of the load generator."""
    lengths = zip(result["ttfts"], result["latencies"], result["output_lens"], strict=True)
    return Block(
        ttft=result["ttfts"],
        tpot=[(e2e - ttft) / max(tokens - 1, 1) for ttft, e2e, tokens in lengths],
        e2e=result["latencies"],
        prompt_tokens=result["input_lens"],
        output_tokens=result["output_lens"],
        errors=result["errors"],
        requests_per_s=result["request_throughput"],
        grown=grown,
        peak_running=peaks.running,
        peak_kv_usage=peaks.kv_usage,
    )
