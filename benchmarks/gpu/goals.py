"""What is promised of a GPU, and whether the figures of this one keep it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..common import read_lines
from ..serving.results import Line, Results
from .outcomes import FAILED, NOT_RUN, PASSED, Outcome, Outcomes
from .parts import SERVED

MET, MISSED = "met", "not met"
SELECTION_MS = {1: 0.5, 8: 1.5}
"""Images in one call -> most milliseconds that their selection may take."""
LLAVA_NEXT = {"op": "selection", "variant": "triton", "P": 2880, "D": 4096, "K": 322}
"""Of a row of the kernels' times: LLaVA-NeXT's picture of 672x672, bfloat16."""
MODEL = "llava-next-7b"
PREFILL_TIMES, REQUESTS_TIMES = 6.8, 3.0


@dataclass(frozen=True)
class Goal:
    """One promise."""

    name: str
    figure: str
    """What was found, or why nothing was."""
    verdict: str
    """MET, MISSED or NOT_RUN."""


def goals(outcomes: Outcomes, folder: Path, names: Sequence[str]) -> list[Goal]:
    """All of them.

    Args:
        folder: where the parts have left their results.
        names: of all parts.
    """
    return [
        _passed("all tests for GPUs pass", "tests-", outcomes, names),
        _passed("compute-sanitizer finds nothing", "sanitizer-", outcomes, names),
        _passed("no waits, no compilation after start-up", "strict-", outcomes, names),
        *_selection(outcomes, folder / "kernels.jsonl"),
        *_serving(outcomes, folder / f"serve-{MODEL}" / "results.jsonl"),
    ]


def _passed(name: str, prefix: str, outcomes: Outcomes, names: Sequence[str]) -> Goal:
    """A goal that is met if all parts whose names begin so have passed."""
    of = [outcomes.of(part) for part in names if part.startswith(prefix)]
    for status, verdict in ((FAILED, MISSED), (NOT_RUN, NOT_RUN), (PASSED, MET)):
        if having := [outcome for outcome in of if outcome.status == status]:
            found = "; ".join(f"{outcome.part}: {outcome.found}" for outcome in having)
            return Goal(name, found, verdict)
    return Goal(name, "no part looks for it", NOT_RUN)


def _selection(outcomes: Outcomes, rows: Path) -> Iterator[Goal]:
    for images, most in SELECTION_MS.items():
        what = "one LLaVA-NeXT image" if images == 1 else f"{images} LLaVA-NeXT images in one call"
        name = f"selection of {what} (2,880 x 4,096, bfloat16, 322 stay): at most {most:g} ms"

        def figure(images: int = images, most: float = most) -> tuple[str, bool]:
            wanted = LLAVA_NEXT | {"batch": images}
            row = next((ln for ln in read_lines(rows) if wanted.items() <= ln.items()), None)
            if row is None:
                raise ValueError("this selection was not timed")
            cold, host = row["cold ms"], row["host ms"]
            found = (
                f"{row['p50 ms']:.3f} ms; from a cold L2 cache {cold:.3f}, enqueued in {host:.3f}"
            )
            return found, row["p50 ms"] <= most

        yield _measured(name, outcomes.of("kernels"), figure)


def _serving(outcomes: Outcomes, results: Path) -> Iterator[Goal]:
    def lines(at_once: int) -> tuple[Line, Line]:
        cell = f"{SERVED[MODEL].picture}, concurrency {at_once}"
        stock, pruned = Results(results).of(cell)
        return stock, pruned

    def prefill() -> tuple[str, bool]:
        before, after = prefill_ms(*lines(1))
        return f"{before / after:.2f} times: {before:.1f} ms, then {after:.1f} ms", (
            before / after >= PREFILL_TIMES
        )

    def requests() -> tuple[str, bool]:
        stock, pruned = (line["requests_per_s"] for line in lines(32))
        return f"{pruned / stock:.2f} times: {stock:.2f}, then {pruned:.2f}", (
            pruned / stock >= REQUESTS_TIMES
        )

    name = f"prefill, from the encoder to the first token: at least {PREFILL_TIMES:g} times shorter"
    yield _measured(f"{name}, {MODEL}", outcomes.of(f"serve-{MODEL}-1"), prefill)
    name = f"requests/s, 32 at a time: at least {REQUESTS_TIMES:g} times stock vLLM's"
    yield _measured(f"{name}, {MODEL}", outcomes.of(f"serve-{MODEL}-32"), requests)


def prefill_ms(stock: Line, pruned: Line) -> tuple[float, float]:
    """Mean milliseconds from the encoder's end to the first token, without selection.

    Stock vLLM does not say how long its encoder takes; it is taken to be what the plugin measured
    of the same encoder, and pictures of the same size.

    Raises:
        ValueError: the plugin has not measured it.
    """
    encoder = pruned["split_ms"]["encoder"]
    if encoder is None:
        raise ValueError("the plugin's server has not counted its encoder")
    return stock["split_ms"]["prefill"] - encoder, pruned["split_ms"]["prefill"]


def _measured(name: str, outcome: Outcome, figure: Callable[[], tuple[str, bool]]) -> Goal:
    """A goal with a number: what was found, and whether that is enough."""
    if outcome.status != PASSED:
        verdict = MISSED if outcome.status == FAILED else NOT_RUN
        return Goal(name, f"no figure; {outcome.part}: {outcome.found}", verdict)
    try:
        found, enough = figure()
    except (ValueError, KeyError, OSError) as error:
        return Goal(name, f"no figure; {outcome.part}: {error}", MISSED)
    return Goal(name, found, MET if enough else MISSED)
