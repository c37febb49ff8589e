"""Measure the cells that have no results yet."""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..common import accelerator
from ..scrape import fetch
from .cells import SCRIPT, STOCK, TOWER, UNUSED, Arm, Cell, block_size, in_turns
from .checks import TIE, WrongOutputs, ask, check_block, check_off_is_stock
from .driver import Block, kv_cache_tokens, load_arguments, run_block
from .expected import Expected
from .fleet import Fleet, Target
from .requests import Request, make_requests
from .results import Line, Results, summary

SETTLE_SECONDS = 1.5
"""Between blocks. A vLLM worker keeps a core busy for a second after its last step."""
GATE_REQUESTS = 3


def measure_all(measurements: Sequence[Measurement]) -> None:
    """Measure one model after the other, under one bar.

    Raises:
        WrongOutputs: a server did not do what it was asked for.
    """
    total = sum(measurement.num_requests for measurement in measurements)
    with tqdm(total=total, unit="request", smoothing=0, dynamic_ncols=True) as bar:
        for measurement in measurements:
            measurement.run(bar)


class Measurement:
    """The cells of one model that have no results yet, one after the other.

    Args:
        about: what a reader needs to judge and to repeat the run, as `describe` has it.
        expected: of the model.
        cells: all that are wanted.
        fleet: its servers.
        results: what has been measured, and where it is added.
        pictures: folder of the pictures of cells that have its name; others are random.
    """

    def __init__(
        self,
        about: dict[str, Any],
        expected: Expected,
        cells: Sequence[Cell],
        fleet: Fleet,
        results: Results,
        pictures: Path | None = None,
    ) -> None:
        self.about, self.expected, self.fleet, self.results = about, expected, fleet, results
        self.cells = [cell for cell in cells if not results.has(cell)]
        self._pictures = pictures
        self._output_tokens: int = about["output_tokens"]
        self._ready: set[tuple[int, str, str]] = set()

    @property
    def num_requests(self) -> int:
        """How many are left to send; of a rate, as many as of another load."""
        return sum(
            len(cell.arms) * cell.repetitions * block_size(cell, None) for cell in self.cells
        )

    def run(self, bar: tqdm) -> None:
        """Measure and save cell by cell.

        Raises:
            WrongOutputs: a server did not do what it was asked for.
        """
        with self.fleet:
            for cell in self.cells:
                targets = self.fleet.provide(cell.servers, cell.launch, bar.set_postfix_str)
                bar.set_postfix_str(f"{cell}: checks")
                self._prepare(cell, targets)
                self.results.add(cell, self._measure(cell, targets, bar))

    def _prepare(self, cell: Cell, targets: dict[str, Target]) -> None:
        """Check that off is stock, and have each arm answer once: first times are slow."""
        requests = self._requests(cell, "gate", GATE_REQUESTS)
        tokens = self._output_tokens
        for kind in targets.keys() & {SCRIPT, TOWER, UNUSED}:
            if self._is_new(cell, kind):
                ratio = None if kind == UNUSED else 1.0
                lengths = self._prompt_tokens(requests, Arm(STOCK))
                check_off_is_stock(
                    *(targets[STOCK], targets[kind], requests, lengths, tokens, ratio),
                    tie=TIE if accelerator() else 0.0,
                )
        for arm in cell.arms:
            if self._is_new(cell, f"arm {arm}"):
                (request,) = self._requests(cell, "warm up", 1)
                ask(targets[arm.server], request, tokens, arm.asked)

    def _is_new(self, cell: Cell, what: str) -> bool:
        """Whether something has not been done yet for the cell's servers and kind of picture."""
        key = (cell.launch, cell.picture, what)
        is_new = key not in self._ready
        self._ready.add(key)
        return is_new

    def _measure(self, cell: Cell, targets: dict[str, Target], bar: tqdm) -> list[Line]:
        rate = self._rate(cell)
        blocks: dict[Arm, list[Block]] = {arm: [] for arm in cell.arms}
        idle: dict[Arm, list[float]] = {arm: [] for arm in cell.arms}
        folder, watch = self.results.path.parent, cell.concurrency != 1
        texts: list[int] = []
        requests: list[Request] = []
        for repetition, arm in in_turns(cell.arms, cell.repetitions):
            bar.set_postfix_str(f"{cell}: {arm}")
            seed = f"{cell}, repetition {repetition}{', again' if arm.known else ''}"
            new = self._requests(cell, seed, block_size(cell, rate))
            if arm.known:
                new = [replace(old, text=own.text) for old, own in zip(requests, new, strict=True)]
            requests = new
            amounts = (self._output_tokens, arm.asked, self.about["seed"] + repetition)
            arguments = load_arguments(cell.concurrency, rate, *amounts)
            time.sleep(SETTLE_SECONDS)
            others = [target for kind, target in targets.items() if kind != arm.server]
            used, started = sum(t.cpu_seconds() for t in others), time.monotonic()
            block = run_block(
                targets[arm.server], self.expected.model, requests, arguments, folder, watch
            )
            used = sum(t.cpu_seconds() for t in others) - used
            idle[arm].append(used / (time.monotonic() - started))
            try:
                lengths = self._prompt_tokens(requests, arm)
                check_block(block, lengths, self._output_tokens)
            except WrongOutputs as error:
                raise WrongOutputs(f"{cell}, {arm}: {error.args[0]}") from None
            blocks[arm].append(block)
            texts += [self.expected.text_tokens(request) for request in requests]
            bar.update(block_size(cell, None))
        return [
            summary(
                cell,
                arm,
                blocks[arm],
                rate=rate,
                text_tokens=sum(texts) / len(texts),
                kv_cache_tokens=kv_cache_tokens(fetch(targets[arm.server].root)),
                idle_cores=max(idle[arm]) if targets[arm.server].processes else None,
                about=self.about,
            )
            for arm in cell.arms
        ]

    def _rate(self, cell: Cell) -> float | None:
        """Requests/s of the cell, where it has a rate."""
        if cell.rate is None:
            return None
        of_stock = self.results.most_of_stock(cell.picture) if cell.rate.endswith("x") else 1.0
        return float(cell.rate.removesuffix("x")) * of_stock

    def _requests(self, cell: Cell, seed: str, count: int) -> list[Request]:
        folder = self._pictures
        pictures = folder if folder and folder.name == cell.picture else cell.picture
        seeds = (self.about["seed"], zlib.crc32(seed.encode()))
        length = self.about["text_tokens"]
        return list(make_requests(pictures, self.expected.tokenizer, length, seeds, count))

    def _prompt_tokens(self, requests: Sequence[Request], arm: Arm) -> list[int]:
        """Tokens that each prompt must have."""
        kept = [self.expected.kept_by(arm, request.size) for request in requests]
        return [self.expected.text_tokens(r) + k for r, k in zip(requests, kept, strict=True)]
