"""One block: `vllm bench serve` on one server, and what it and the server's /metrics say."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from .. import scrape
from ..scrape import Scrape
from .fleet import Target
from .requests import Request

LOOK_SECONDS = 0.5
COUNT_SECONDS = 10
"""Within so long after its answer, a server must have counted a request."""

Block = dict[str, Any]
"""A result of the load generator. Its lists have an entry a request: `ttfts` and `latencies` in
seconds, `itls` with the seconds between one token and the next, `input_lens` and `output_lens` as
the server counts them, and `errors`, empty where it was answered. Beside them: `grown`, what the
server's counters grew by, `peak_running`, most requests in the engine at a time, and
`peak_kv_usage`, the largest part of the KV cache in use."""


def load_arguments(
    concurrency: int | None,
    rate: float | None,
    output_tokens: int,
    keep_ratio: float | None,
    seed: int,
) -> list[str]:
    """Arguments of `vllm bench serve`: how requests come, and what each asks for.

    Args:
        rate: requests/s, where they do not come so many at a time.
        keep_ratio: None where requests have no `script` field.
    """
    arguments = ["--max-concurrency", str(concurrency)]
    if rate is not None:
        arguments = ["--request-rate", f"{rate:.4f}"]
    arguments += ["--seed", str(seed), "--custom-output-len", str(output_tokens)]
    arguments += ["--ignore-eos", "--temperature", "0"]
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
        arguments: of `vllm bench serve`, as `load_arguments` has them.
        folder: gets bench.log.
        watch: look at /metrics meanwhile, twice a second, for peaks.
    """
    command = ["--backend", "openai-chat", "--endpoint", "/v1/chat/completions"]
    command += ["--base-url", target.root, "--model", model, "--served-model-name", target.model]
    command += ["--dataset-name", "custom", "--num-prompts", str(len(requests)), *arguments]
    before = scrape.fetch(target.root)
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
    return {
        **result,
        "grown": when_counted(target.root, before, answered),
        "peak_running": peaks.running,
        "peak_kv_usage": peaks.kv_usage,
    }


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


def when_counted(root: str, before: Scrape, requests: int) -> dict[str, float]:
    """What each metric grew by since `before`, once the server has counted all requests of a block.

    Raises:
        RuntimeError: the server has not counted them in time.
    """
    old, deadline = before.totals, time.monotonic() + COUNT_SECONDS
    while True:
        now = scrape.fetch(root).totals
        grown = {name: value - old.get(name, 0.0) for name, value in now.items()}
        counted = grown.get("vllm:request_prompt_tokens_count", 0)
        if counted == requests:
            return grown
        if counted > requests or time.monotonic() > deadline:
            raise RuntimeError(
                f"{root}/metrics counted {counted:.0f} requests for {requests} that were sent: "
                "somebody else asks this server, or it does not count"
            )
        time.sleep(0.1)


def kv_cache_tokens(found: Scrape) -> int | None:
    """How many tokens the KV cache holds, if the server says."""
    name = "vllm:cache_config_info"
    known = next((sample.labels for sample in found.samples if sample.name == name), {})
    sizes = [known.get(label, "") for label in ("num_gpu_blocks", "block_size")]
    return int(sizes[0]) * int(sizes[1]) if all(size.isdigit() for size in sizes) else None


class Peaks:
    """Largest values that were seen while a `with` block ran; two looks a second."""

    def __init__(self, root: str) -> None:
        self.running = 1
        """Most requests in the engine at a time; nobody looks for a single one."""
        self.kv_usage = 0.0
        """Largest part of the KV cache in use."""
        self._root = root
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Peaks:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(LOOK_SECONDS):
            found = scrape.fetch(self._root)
            self.running = max(self.running, int(found.sum("vllm:num_requests_running")))
            self.kv_usage = max(self.kv_usage, found.totals.get("vllm:kv_cache_usage_perc", 0.0))
