"""Stock vLLM against one other server, one request at a time, on one kind of picture or video."""

from __future__ import annotations

import textwrap
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .cells import SCRIPT, STOCK, Arm, Load, in_turns
from .checks import WrongOutputs, ask, check_block
from .driver import Block, load_arguments, request_arguments, run_block
from .expected import Expected
from .fleet import Target
from .measure import SETTLE_SECONDS
from .own_pruning import own_num_kept
from .ratios import paired_ratio, percentiles
from .requests import Request, Size, make_requests, size_of
from .results import time_split
from .tables import markdown, with_interval

TEXT_TOKENS = 32
"""Of the text of a request."""
OUTPUT_TOKENS = 2
"""Of an answer: what comes after the first token is not looked at."""
ONE = Load(concurrency=1)
NOTES = """\
One request at a time, {text_tokens} text tokens + picture or video in. Tokens and times: stock's
and the other's. The ratio is a geometric mean over pairs of requests, in brackets its 95 %
interval. Encoder and selection are parts of the plugin's time; stock does not count them. How right
answers are is measured by accuracy_bench.py; a speed without it is no result.
"""


@dataclass(frozen=True)
class Duel:
    """One comparison."""

    family: str
    size: Size
    rival: str
    """Kind of the other server: `script`, or a method of vLLM's own."""
    keep_ratio: float
    requests: int
    """Of a block."""
    repetitions: int
    """Blocks of each server."""

    def __str__(self) -> str:
        return f"{self.family}, {self.size}, {self.rival}"

    @property
    def arms(self) -> tuple[Arm, Arm]:
        """vLLM's own pruning is set by the flags of its server, the plugin's by the request."""
        ratio = self.keep_ratio if self.rival == SCRIPT else None
        return Arm(STOCK), Arm(self.rival, ratio)


def duels_of(
    family: str,
    sizes: Sequence[Size],
    modalities: Sequence[str],
    own_methods: Sequence[str],
    keep_ratio: float,
    requests: int,
    repetitions: int,
) -> list[Duel]:
    """A family's comparisons, in an order in which its servers change least.

    Args:
        modalities: what the plugin prunes of the family.
        own_methods: what vLLM itself can prune its videos with.
    """
    amounts = (keep_ratio, requests, repetitions)
    pruned = [size for size in sizes if size.modality in modalities]
    duels = [Duel(family, size, SCRIPT, *amounts) for size in pruned]
    videos = [size for size in pruned if size.frames is not None]
    return duels + [Duel(family, size, m, *amounts) for m in own_methods for size in videos]


def measure(
    duel: Duel,
    targets: Mapping[str, Target],
    expected: Expected,
    model: str,
    folder: Path,
    bar: tqdm,
) -> dict[str, Any]:
    """Drive both servers in turns; a line of results.

    Args:
        targets: stock and the rival.
        model: checkpoint, for its tokenizer.
        folder: for the log of the load generator.

    Raises:
        WrongOutputs: a request failed, or has other token counts than expected.
    """
    blocks: dict[Arm, list[Block]] = {arm: [] for arm in duel.arms}
    for arm in duel.arms:  # first times are slow
        (request,) = _requests(duel, expected, "warm up", 1)
        ask(targets[arm.server], request, OUTPUT_TOKENS, arm.keep_ratio)
    for repetition, arm in in_turns(duel.arms, duel.repetitions):
        bar.set_postfix_str(f"{duel}: {arm.server}")
        time.sleep(SETTLE_SECONDS)
        requests = _requests(duel, expected, f"repetition {repetition}", duel.requests)
        arguments = load_arguments(ONE, None, repetition)
        arguments += request_arguments(OUTPUT_TOKENS, arm.keep_ratio)
        block = run_block(targets[arm.server], model, requests, arguments, folder, watch=False)
        kept = visual_tokens(duel, arm, expected)
        lengths = [expected.text_tokens(request) + kept for request in requests]
        try:
            check_block(block, lengths, OUTPUT_TOKENS)
        except WrongOutputs as error:
            raise WrongOutputs(f"{duel}, {arm.server}: {error}") from None
        blocks[arm].append(block)
        bar.update()
    stock, rival = duel.arms
    times = {arm: [t for block in blocks[arm] for t in block.ttft] for arm in duel.arms}
    return {
        "family": duel.family,
        "size": str(duel.size),
        "rival": duel.rival,
        "keep_ratio": duel.keep_ratio,
        "requests": len(times[stock]),
        "visual_tokens": [visual_tokens(duel, arm, expected) for arm in duel.arms],
        "ttft_ms": [percentiles(times[arm]) for arm in duel.arms],
        "ttft_to_stock": round(paired_ratio(times[rival], times[stock]).value, 4),
        "split_ms": [time_split(blocks[arm]) for arm in duel.arms],
        "ttft_s": [times[arm] for arm in duel.arms],
    }


def visual_tokens(duel: Duel, arm: Arm, expected: Expected) -> int:
    """Those that a server of the duel must have of an item."""
    if arm.server in (STOCK, SCRIPT):
        return expected.visual_tokens(duel.size, arm.keep_ratio)
    return own_num_kept(arm.server, expected.item(duel.size).layout, duel.keep_ratio)


def report(lines: Sequence[Mapping[str, Any]], about: Mapping[str, str]) -> str:
    """What was found, as a Markdown table."""
    head = ["family", "sent", "pruned by", "visual tokens", "TTFT p50, ms", "TTFT to stock's"]
    head.append("encoder, selection, ms")
    notes = textwrap.fill(NOTES.format(text_tokens=TEXT_TOKENS), 100)
    known = "\n".join(f"- {name}: {value}" for name, value in about.items())
    return f"{known}\n\n{notes}\n\n{markdown(head, map(_row, lines))}\n"


def _row(line: Mapping[str, Any]) -> list[str]:
    stock, rival = line["ttft_s"]
    parts = [line["split_ms"][1][name] for name in ("encoder", "selection")]
    return [
        line["family"],
        f"{size_of(line['size']).modality} {line['size']}",
        line["rival"],
        ", ".join(map(str, line["visual_tokens"])),
        ", ".join(f"{points['p50']:.0f}" for points in line["ttft_ms"]),
        with_interval(paired_ratio(rival, stock), 2),
        ", ".join(f"{part:.0f}" for part in parts if part is not None),
    ]


def _requests(duel: Duel, expected: Expected, name: str, count: int) -> list[Request]:
    """The same for both servers, but for what no cache may know."""
    seed = (zlib.crc32(f"{duel}, {name}".encode()),)
    drawn = make_requests(str(duel.size), expected.tokenizer, TEXT_TOKENS, seed, count)
    return list(drawn)
