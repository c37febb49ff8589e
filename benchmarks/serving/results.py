"""The file of results: a line for each arm of each cell that has been measured."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

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
    """What `path` has, and what is added to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[Line] = read_lines(path)

    def check_same_run(self, about: dict[str, Any]) -> None:
        """Keep results that cannot be compared out of one file.

        Raises:
            ValueError: it has results of another model or other requests.
        """
        for line in self.lines:
            check_same_run(self.path.parent, line["about"], {name: about[name] for name in SAME})

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
    count = sum(len(block.ttft) for block in blocks)
    prompt_tokens = _mean_of_requests(blocks, "vllm:request_prompt_tokens_sum", count)
    assert prompt_tokens is not None, "when_counted waits for it"
    return {
        "cell": str(cell),
        "arm": str(arm),
        "family": cell.family,
        "server": arm.server,
        "picture": cell.picture,
        "concurrency": cell.load.concurrency,
        "rate": rate,
        "launch": cell.launch,
        "again": cell.again,
        "keep_ratio": arm.keep_ratio,
        "requests": [len(block.ttft) for block in blocks],
        "ttft_ms": percentiles([value for block in blocks for value in block.ttft]),
        "tpot_ms": percentiles([value for block in blocks for value in block.tpot]),
        "e2e_ms": percentiles([value for block in blocks for value in block.e2e]),
        "requests_per_s": round(float(np.median([b.requests_per_s for b in blocks])), 4),
        "prompt_tokens": round(prompt_tokens, 1),
        "visual_kv_tokens": round(prompt_tokens - text_tokens, 1),
        "kv_cache_tokens": kv_cache_tokens,
        "peak_running": max(block.peak_running for block in blocks),
        "peak_kv_usage": round(max(block.peak_kv_usage for block in blocks), 4),
        "split_ms": time_split(blocks),
        "spans_ms": spans(blocks),
        "idle_cores": None if idle_cores is None else round(idle_cores, 3),
        "blocks": [
            {
                "ttft_s": [round(value, 5) for value in block.ttft],
                "e2e_s": [round(value, 5) for value in block.e2e],
                "requests_per_s": round(block.requests_per_s, 4),
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
    count = sum(len(block.ttft) for block in blocks)
    total = sum(sum(block.ttft) for block in blocks) / count
    queue = _mean_of_requests(blocks, "vllm:request_queue_time_seconds_sum", count) or 0.0
    engine = _mean_of_requests(blocks, "vllm:request_prefill_time_seconds_sum", count) or 0.0
    encoder = _mean_of_requests(blocks, "script_encoder_seconds_sum", count)
    selection = _mean_of_requests(blocks, "script_selection_seconds_sum", count)
    parts = {
        "preprocess": total - queue - engine,
        "queue": queue,
        "encoder": encoder,
        "selection": selection,
        "prefill": engine - (encoder or 0.0) - (selection or 0.0),
    }
    return {name: None if v is None else round(1000 * v, 3) for name, v in parts.items()}


def spans(blocks: Sequence[Block]) -> dict[str, float]:
    """Mean milliseconds a request of the plugin's own work on pictures, as it counts them."""
    count = sum(len(block.ttft) for block in blocks)
    names = ("preprocess", "encoder", "selection")
    seconds = {n: _mean_of_requests(blocks, f"script_{n}_seconds_sum", count) for n in names}
    return {name: round(1000 * (value or 0.0), 3) for name, value in seconds.items()}


def _mean_of_requests(blocks: Sequence[Block], name: str, count: int) -> float | None:
    """A counter's growth by request; None where it did not grow."""
    return sum(block.grown.get(name, 0.0) for block in blocks) / count or None


def ttft_ratio(above: Line, below: Line) -> Interval:
    """Time to first token of one arm to another's.

    By request where they run one after the other; else by block, for they wait for each other.
    """
    blocks = [[block["ttft_s"] for block in line["blocks"]] for line in (above, below)]
    if above["concurrency"] == 1:
        return paired_ratio(*(sum(times, []) for times in blocks))
    return paired_ratio(*([float(np.median(times)) for times in own] for own in blocks))


def throughput_ratio(above: Line, below: Line) -> Interval:
    """Requests/s of one arm to another's, by block."""
    return paired_ratio(
        *([block["requests_per_s"] for block in line["blocks"]] for line in (above, below))
    )


def ratio_of_launches(pairs: Sequence[tuple[Line, Line]]) -> Interval:
    """TTFT ratio over several launches, each of which is one observation.

    What differs between two servers for as long as they live, no number of requests averages out.
    """
    values = [ttft_ratio(above, below).value for above, below in pairs]
    return paired_ratio(values, [1.0] * len(values))
