"""What is measured: cells of one load on several arms, and the order of their blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .requests import Size

STOCK, UNUSED, SCRIPT, TOWER = "stock", "unused", "script", "tower"
"""Kinds of servers: vLLM alone; the plugin installed and not asked for; the plugin asked for; the
plugin with a thinned vision tower."""

RATE_SECONDS = 30
"""How long requests keep coming in a block with a request rate."""
OFF_REQUESTS = 2
OFF_REPETITIONS = 2
"""Requests of a block, and blocks of an arm, where stock is compared with pruning switched off."""


@dataclass(frozen=True)
class Arm:
    """One of the things compared."""

    server: str
    """Kind of its server: one of the above, or a method of vLLM's own pruning."""
    keep_ratio: float | None = None
    """Part of the visual tokens that stays; None where none is pruned."""
    known: bool = False
    """Whether it asks something else about the pictures of the arm before."""

    def __str__(self) -> str:
        name = "keep" if self.server == SCRIPT else self.server
        name = name if self.keep_ratio is None else f"{name} {self.keep_ratio:g}"
        return f"{name}, known picture" if self.known else name

    @property
    def asked(self) -> float | None:
        """Keep ratio in the requests; vLLM's own pruning is set by the flags of its server."""
        return self.keep_ratio if self.server in (SCRIPT, TOWER) else None


@dataclass(frozen=True)
class Cell:
    """One load on one kind of picture, measured on several arms in turns."""

    picture: str
    """Size of random pictures, as in 672x672, or videos, 16x336x336, or the name of a folder."""
    arms: tuple[Arm, ...]
    """The first one is what the others are compared with."""
    requests: int
    """Requests of one block, where the load does not ask for more."""
    repetitions: int
    """Blocks of each arm."""
    concurrency: int | None = 1
    """Requests at a time; None where they come at a rate."""
    rate: str | None = None
    """Requests/s of Poisson arrivals, or, as in 0.7x, a multiple of the most that stock served."""
    launch: int = 0
    """Servers live as long as this number stays the same; above 0 for comparisons with off."""
    family: str | None = None
    """Whose model is asked, where models of several families are."""

    def __str__(self) -> str:
        if self.family:
            at_once = "" if self.concurrency == 1 else f", concurrency {self.concurrency}"
            return f"{self.family}, {self.picture}{at_once}, {self.arms[-1]}"
        load = f"rate {self.rate}" if self.rate else f"concurrency {self.concurrency}"
        off = f", {self.arms[-1]} against stock, launch {self.launch}" if self.launch else ""
        return f"{self.picture}, {load}{off}{', second question' if self.again else ''}"

    @property
    def again(self) -> bool:
        """Whether a picture's first question is compared with its second."""
        return any(arm.known for arm in self.arms)

    @property
    def servers(self) -> set[str]:
        """Kinds of servers that are up; stock's always is, so that no measurement depends on it."""
        return {STOCK, *(arm.server for arm in self.arms)}


def grid(
    pictures: Sequence[str],
    concurrency: Sequence[int],
    rates: Sequence[str],
    keep_ratios: Sequence[float],
    requests: int,
    repetitions: int,
) -> list[Cell]:
    """Every load on the first kind of picture, and the first load on the others.

    Rates come last: some are multiples of what was measured before. In between, one question and
    then another about each picture, at the first ratio.
    """
    arms = (Arm(STOCK), *(Arm(SCRIPT, ratio) for ratio in keep_ratios))
    questions = (Arm(SCRIPT, keep_ratios[0]), Arm(SCRIPT, keep_ratios[0], known=True))
    size = (requests, repetitions)
    return [
        *(Cell(pictures[0], arms, *size, number) for number in concurrency),
        *(Cell(picture, arms, *size, concurrency[0]) for picture in pictures[1:]),
        Cell(pictures[0], questions, *size),
        *(Cell(pictures[0], arms, *size, None, rate) for rate in rates),
    ]


def off_cells(picture: str, launches: int, servers: Sequence[str]) -> list[Cell]:
    """Stock against pruning switched off, one request at a time, each launch on fresh servers."""
    off = [arm for arm in (Arm(SCRIPT, 1.0), Arm(UNUSED)) if arm.server in servers]
    return [
        Cell(picture, (Arm(STOCK), arm), OFF_REQUESTS, OFF_REPETITIONS, launch=launch)
        for launch in range(1, launches + 1)
        for arm in off
    ]


def family_cells(
    family: str,
    sizes: Sequence[Size],
    modalities: Sequence[str],
    own_methods: Sequence[str],
    keep_ratio: float,
    requests: int,
    repetitions: int,
    towers: Sequence[str] = (),
    concurrency: int = 1,
) -> list[Cell]:
    """Stock against each way to prune a family's items, in an order that changes servers least.

    Args:
        modalities: what the plugin prunes of the family.
        own_methods: what vLLM itself can prune its videos with.
        towers: TOWER, where the plugin is measured with a thinned vision tower beside it.
        concurrency: requests at a time.
    """
    pruned = [size for size in sizes if size.modality in modalities]
    videos = [size for size in pruned if size.frames is not None]
    pairs = [((SCRIPT, *towers), size) for size in pruned]
    pairs += [((method,), size) for method in own_methods for size in videos]
    return [
        Cell(
            str(size),
            (Arm(STOCK), *(Arm(server, keep_ratio) for server in servers)),
            *(requests, repetitions, concurrency),
            family=family,
        )
        for servers, size in pairs
    ]


def in_turns(arms: Sequence[Arm], repetitions: int) -> list[tuple[int, Arm]]:
    """(repetition, arm) in the order of measurement: A B B A A B ..., so that drift cancels.

    Not where an arm's pictures must be known from the one before.
    """
    fixed = any(arm.known for arm in arms)
    return [
        (repetition, arm)
        for repetition in range(repetitions)
        for arm in (arms if fixed or repetition % 2 == 0 else reversed(arms))
    ]


def block_size(cell: Cell, rate: float | None) -> int:
    """Requests of a block; `rate` in requests/s where the load has one."""
    if rate is not None:
        return max(cell.requests, round(rate * RATE_SECONDS))
    return max(cell.requests, cell.concurrency or 0)
