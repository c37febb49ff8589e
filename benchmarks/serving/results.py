"""The file of results: a line for each arm of each cell that has been measured."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from ..common import check_same_run, environment, machine, read_lines, repeatable, write_lines
from ..intervals import Interval, paired_ratio, percentiles
from .cells import STOCK, Arm, Cell
from .driver import Block

Line = dict[str, Any]

SAME = ("model", "text_tokens", "output_tokens", "seed")
"""What all lines of a file have in common."""


def describe(
    model: str, text_tokens: int, output_tokens: int, seed: int, flags: Sequence[str] | None
) -> dict[str, Any]:
    """What a reader needs to judge and to repeat the run; `flags`: None of servers elsewhere."""
    return {
        "model": model,
        "text_tokens": text_tokens,
        "output_tokens": output_tokens,
        "seed": seed,
        "machine": "servers elsewhere" if flags is None else machine(),
        "server_flags": "" if flags is None else shlex.join(flags),
        "environment": environment(),
        **repeatable(),
    }


class Results:
    """What a file has, and what is added to it.

    Args:
        about: of this run, as `describe` has it; None to read alone.

    Raises:
        ValueError: the file has results of another model or other requests.
    """

    def __init__(self, path: Path, about: dict[str, Any] | None = None) -> None:
        self.path = path
        self.lines: list[Line] = read_lines(path)
        if about is not None:
            same = {name: about[name] for name in SAME}
            for line in self.lines:
                check_same_run(path.parent, line["about"], same)

    def has(self, cell: Cell) -> bool:
        """Whether all arms of the cell were measured together."""
        return {str(arm) for arm in cell.arms} <= {line["arm"] for line in self.of(str(cell))}

    def of(self, cell: str) -> list[Line]:
        """The lines of a cell, an arm each."""
        return [line for line in self.lines if line["cell"] == cell]

    def add(self, cell: Cell, lines: Sequence[Line]) -> None:
        """Add a cell, instead of an earlier one with other arms, and write the file."""
        self.lines = [line for line in self.lines if line["cell"] != str(cell)] + list(lines)
        write_lines(self.path, self.lines)

    def most_of_stock(self, picture: str) -> float:
        """The most requests/s that stock served of that picture, at any concurrency.

        Raises:
            ValueError: that has not been measured.
        """
        rates: list[float] = [
            line["requests_per_s"]
            for line in self.lines
            if line["picture"] == picture and line["arm"] == STOCK and line["concurrency"]
        ]
        if not rates:
            raise ValueError("a rate such as 0.7x needs a --concurrency measured before it")
        return max(rates)


def summary(
    cell: Cell,
    arm: Arm,
    blocks: Sequence[Block],
    *,
    rate: float | None,
    text_tokens: float,
    kv_cache_tokens: int | None,
    idle_cores: float | None,
    about: dict[str, Any],
) -> Line:
    """The line of one arm.

    Args:
        blocks: in the order of the repetitions, so that arms can be paired.
        rate: requests/s, where the load has a rate.
        text_tokens: mean of a prompt without its picture.
        kv_cache_tokens: how many the server's KV cache holds.
        idle_cores: processor cores that the other servers used meanwhile.
    """
    prompt_tokens = _mean(blocks, "vllm:request_prompt_tokens_sum")
    assert prompt_tokens is not None, "when_counted waits for it"
    ttfts, latencies, lengths = (_all(blocks, n) for n in ("ttfts", "latencies", "output_lens"))
    requests = zip(ttfts, latencies, lengths, strict=True)
    tpot = [(e2e - ttft) / max(tokens - 1, 1) for ttft, e2e, tokens in requests]
    return {
        "cell": str(cell),
        "arm": str(arm),
        "family": cell.family,
        "server": arm.server,
        "picture": cell.picture,
        "concurrency": cell.concurrency,
        "rate": rate,
        "launch": cell.launch,
        "again": cell.again,
        "keep_ratio": arm.keep_ratio,
        "requests": [len(block["ttfts"]) for block in blocks],
        "ttft_ms": percentiles(ttfts),
        "tpot_ms": percentiles(tpot),
        "itl_ms": percentiles(sum(_all(blocks, "itls"), []) or [math.nan]),  # none of one token
        "e2e_ms": percentiles(latencies),
        "requests_per_s": round(median(block["request_throughput"] for block in blocks), 4),
        "prompt_tokens": round(prompt_tokens, 1),
        "visual_kv_tokens": round(prompt_tokens - text_tokens, 1),
        "kv_cache_tokens": kv_cache_tokens,
        "peak_running": max(block["peak_running"] for block in blocks),
        "peak_kv_usage": round(max(block["peak_kv_usage"] for block in blocks), 4),
        "split_ms": time_split(blocks),
        "spans_ms": {name: value or 0.0 for name, value in _spans(blocks).items()},
        "idle_cores": None if idle_cores is None else round(idle_cores, 3),
        "blocks": [
            {
                "ttft_s": [round(value, 5) for value in block["ttfts"]],
                "e2e_s": [round(value, 5) for value in block["latencies"]],
                "requests_per_s": round(block["request_throughput"], 4),
            }
            for block in blocks
        ],
        "about": about,
    }


def time_split(blocks: Sequence[Block]) -> dict[str, float | None]:
    """Mean milliseconds of a request's time to first token, cut into parts that add up to it.

    `queue` and `prefill` are vLLM's, the latter without `encoder` and `selection`, which are the
    plugin's (None where it did not prune: then prefill has the encoder too). `preprocess` is the
    rest, all that is outside the engine: HTTP, decoding and resizing of the picture, hashes, and
    the ways between processes.
    """
    total = 1000 * mean(_all(blocks, "ttfts"))
    queue = 1000 * (_mean(blocks, "vllm:request_queue_time_seconds_sum") or 0.0)
    engine = 1000 * (_mean(blocks, "vllm:request_prefill_time_seconds_sum") or 0.0)
    own = _spans(blocks)
    encoder, selection = own["encoder"], own["selection"]
    return {
        "preprocess": round(total - queue - engine, 3),
        "queue": round(queue, 3),
        "encoder": encoder,
        "selection": selection,
        "prefill": round(engine - (encoder or 0.0) - (selection or 0.0), 3),
    }


def _spans(blocks: Sequence[Block]) -> dict[str, float | None]:
    """Mean milliseconds a request of the plugin's own work, None of what it did not do."""
    names = ("preprocess", "encoder", "selection")
    seconds = {name: _mean(blocks, f"script_{name}_seconds_sum") for name in names}
    return {name: value and round(1000 * value, 3) for name, value in seconds.items()}


def _mean(blocks: Sequence[Block], metric: str) -> float | None:
    """A counter's growth by request; None where it did not grow."""
    grown = sum(block["grown"].get(metric, 0.0) for block in blocks)
    return grown / len(_all(blocks, "ttfts")) or None


def _all(blocks: Sequence[Block], name: str) -> list[Any]:
    """A list that every block has, of all requests."""
    return [value for block in blocks for value in block[name]]


def ttft_ratio(above: Line, below: Line) -> Interval:
    """Time to first token of one arm to another's.

    By request where they run one after the other; else by block, for they wait for each other.
    """
    blocks = [[block["ttft_s"] for block in line["blocks"]] for line in (above, below)]
    if above["concurrency"] == 1:
        return paired_ratio(*(sum(times, []) for times in blocks))
    return paired_ratio(*([median(times) for times in own] for own in blocks))


def throughput_ratio(above: Line, below: Line) -> Interval:
    """Requests/s of one arm to another's, by block."""
    return paired_ratio(
        *([block["requests_per_s"] for block in line["blocks"]] for line in (above, below))
    )
