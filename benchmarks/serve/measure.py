"""Measure the cells that have no results yet."""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .cells import SCRIPT, STOCK, Arm, Cell, block_size, in_turns
from .checks import WrongOutputs, ask, check_block, check_off_is_stock
from .driver import Block, load_arguments, request_arguments, run_block
from .expected import Expected
from .fleet import Fleet, Target
from .prometheus import fetch, kv_cache_tokens
from .requests import Request, make_requests
from .results import Line, Results, summary

SETTLE_SECONDS = 1.5
"""Between blocks. A vLLM worker keeps a core busy for a second after its last step."""
GATE_REQUESTS = 3
WEIGHT_OF_A_REQUEST = 600
"""Tokens whose prefill takes about as long as a request's other work, for the remaining time."""


@dataclass(frozen=True)
class Plan:
    """What all cells have in common."""

    model: str
    """Checkpoint, a folder or repository."""
    folders: dict[str, Path]
    """Folders of pictures by name; other pictures are random."""
    text_tokens: int
    output_tokens: int
    seed: int
    out: Path
    about: dict[str, Any]


class Measurement:
    """The cells of a plan, one after the other."""

    def __init__(self, plan: Plan, fleet: Fleet, results: Results, bar: tqdm) -> None:
        self.plan, self.fleet, self.results, self.bar = plan, fleet, results, bar
        self.expected = Expected(plan.model)
        self._ready: set[tuple[int, str, str]] = set()
        self._tokens: dict[tuple[str, Arm], int] = {}

    def run(self, cells: Sequence[Cell]) -> None:
        """Measure and save cell by cell.

        Raises:
            WrongOutputs: a server did not do what it was asked for.
        """
        todo = [cell for cell in cells if not self.results.has(cell)]
        self.bar.reset(total=sum(self._weight(cell, arm) for cell in todo for arm in _blocks(cell)))
        for cell in todo:
            targets = self.fleet.provide(cell.servers, cell.launch)
            self.bar.set_postfix_str(f"{cell}: checks")
            self._prepare(cell, targets)
            self.results.add(cell, self._measure(cell, targets))

    def _prepare(self, cell: Cell, targets: dict[str, Target]) -> None:
        """Check that off is stock, and have each arm answer once: first times are slow."""
        requests = self._requests(cell, "gate", GATE_REQUESTS)
        for kind in targets.keys() - {STOCK}:
            if (cell.launch, cell.picture, kind) not in self._ready:
                ratio = 1.0 if kind == SCRIPT else None
                lengths = self._prompt_tokens(requests, None)
                tokens = self.plan.output_tokens
                check_off_is_stock(targets[STOCK], targets[kind], requests, lengths, tokens, ratio)
                self._ready.add((cell.launch, cell.picture, kind))
        for arm in cell.arms:
            if (cell.launch, cell.picture, str(arm)) not in self._ready:
                (request,) = self._requests(cell, "warm up", 1)
                ask(targets[arm.server], request, self.plan.output_tokens, arm.keep_ratio)
                self._ready.add((cell.launch, cell.picture, str(arm)))

    def _measure(self, cell: Cell, targets: dict[str, Target]) -> list[Line]:
        rate = self._rate(cell)
        blocks: dict[Arm, list[Block]] = {arm: [] for arm in cell.arms}
        idle: dict[Arm, list[float]] = {arm: [] for arm in cell.arms}
        texts: list[float] = []
        requests: list[Request] = []
        for repetition, arm in in_turns(cell.arms, cell.repetitions):
            self.bar.set_postfix_str(f"{cell}: {arm}")
            seed = f"{cell}, repetition {repetition}{', again' if arm.known else ''}"
            new = self._requests(cell, seed, block_size(cell, rate))
            if arm.known:
                new = [replace(old, text=own.text) for old, own in zip(requests, new, strict=True)]
            requests = new
            time.sleep(SETTLE_SECONDS)
            others = [target for kind, target in targets.items() if kind != arm.server]
            used, started = sum(t.cpu_seconds() for t in others), time.monotonic()
            block = self._block(targets[arm.server], cell, arm, requests, rate, repetition)
            used = sum(t.cpu_seconds() for t in others) - used
            idle[arm].append(used / (time.monotonic() - started))
            try:
                lengths = self._prompt_tokens(requests, arm.keep_ratio)
                check_block(block, lengths, self.plan.output_tokens)
            except WrongOutputs as error:
                raise WrongOutputs(f"{cell}, {arm}: {error}") from None
            blocks[arm].append(block)
            texts += [self.expected.text_tokens(request) for request in requests]
            self.bar.update(self._weight(cell, arm))
        return [
            summary(
                cell,
                arm,
                blocks[arm],
                rate=rate,
                text_tokens=sum(texts) / len(texts),
                kv_cache_tokens=kv_cache_tokens(fetch(targets[arm.server].root)),
                idle_cores=max(idle[arm]) if targets[arm.server].processes else None,
                about=self.plan.about,
            )
            for arm in cell.arms
        ]

    def _block(
        self,
        target: Target,
        cell: Cell,
        arm: Arm,
        requests: Sequence[Request],
        rate: float | None,
        repetition: int,
    ) -> Block:
        plan = self.plan
        arguments = load_arguments(cell.load, rate, plan.seed + repetition)
        arguments += request_arguments(plan.output_tokens, arm.keep_ratio)
        watch = cell.load.concurrency != 1
        return run_block(target, plan.model, requests, arguments, plan.out, watch)

    def _rate(self, cell: Cell) -> float | None:
        if cell.load.rate is None or not cell.load.of_stock:
            return cell.load.rate
        return cell.load.rate * self.results.most_of_stock(cell.picture)

    def _requests(self, cell: Cell, seed: str, count: int) -> list[Request]:
        plan = self.plan
        pictures = plan.folders.get(cell.picture, cell.picture)
        seeds = (plan.seed, zlib.crc32(seed.encode()))
        tokenizer = self.expected.tokenizer
        return list(make_requests(pictures, tokenizer, plan.text_tokens, seeds, count))

    def _prompt_tokens(self, requests: Sequence[Request], keep_ratio: float | None) -> list[int]:
        return [self.expected.prompt_tokens(request, keep_ratio) for request in requests]

    def _weight(self, cell: Cell, arm: Arm) -> int:
        """About how long a block takes, in tokens of prefill."""
        if (cell.picture, arm) not in self._tokens:
            (request,) = self._requests(cell, "weight", 1)
            (self._tokens[cell.picture, arm],) = self._prompt_tokens([request], arm.keep_ratio)
        tokens = self._tokens[cell.picture, arm]
        return block_size(cell, None) * (tokens + WEIGHT_OF_A_REQUEST)


def _blocks(cell: Cell) -> list[Arm]:
    return [arm for _, arm in in_turns(cell.arms, cell.repetitions)]
