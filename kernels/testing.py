"""What counts as a right selection: float64 decides, and scores within TIE of each other are a tie.

Kernel and reference add up in other orders, so on real-valued rows they may settle a tie in two
ways, and from there on select in two ways. So a selection is not compared with another one: it is
followed in float64, and every choice in it must be one of the best. Tests and the gate of the
benchmark share this.

A residual is what is left of a first residual of about 1, so float32 knows it to about 1e-7 of that
and no better: where residuals have fallen to 1e-3, TIE asks for more than float32 has, of the
reference as of the kernels. Picks beyond TIE are counted, never waved through in silence: synthetic
tests and the benchmark allow none, and those on a trained model's features print how many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ._triton import Backend
from .greedy_cover import COPY, TEMPERATURE
from .greedy_map import RESIDUAL_FLOOR, greedy_map
from .norms import unit_rows
from .reduce_graph import DUPLICATE_SIMILARITY, MAX_DROP, MAX_ROUNDS, Pool, reduce_graph
from .similarity import cosine_similarity

# Relative distance of two scores, and absolute distance of a cosine from the edge threshold, below
# which float32 may see them either way.
TIE = 1e-5


def assert_picks(
    x: torch.Tensor, relevance: torch.Tensor | None, candidates: torch.Tensor, picks: torch.Tensor
) -> int:
    """Check picks that greedy MAP made in this order; those beyond the rank may be any.

    Returns how many are no tie, yet within RESIDUAL_FLOOR of the best one.

    Args:
        x: [N, D] rows.
        relevance: [N] or None.
        candidates: [M] rows to pick from.
        picks: [K] rows.

    Raises:
        AssertionError: a pick repeats, is no candidate, or is worse than that.
    """
    unit = unit_rows64(x[candidates])
    place = {row: index for index, row in enumerate(candidates.tolist())}
    rows = picks.tolist()
    assert len(set(rows)) == len(rows), "a row is picked twice"
    assert set(rows) <= set(place), "a picked row is no candidate"
    weight = torch.ones(len(unit), dtype=torch.float64, device=x.device)
    if relevance is not None and relevance[candidates].min() < relevance[candidates].max():
        weight = relevance[candidates].double() / relevance[candidates].max().double()
    kernel = weight[:, None] * (unit @ unit.T) * weight
    residual = torch.where(unit.any(1), weight.square(), 0.0)
    floor = RESIDUAL_FLOOR * weight.square()
    factor = torch.zeros(len(rows), len(unit), dtype=torch.float64, device=x.device)
    num_beyond_tie = 0
    for step, row in enumerate(rows):
        # Near its floor a token is spanned or not, as float32 will have it.
        pick, left = place[row], residual[residual > 2 * floor]
        if len(left) == 0:
            break
        best = float(left.max())
        own = float(residual[pick])
        wrong = f"step {step}: picked {own:.8g}, the best is {best:.8g}"
        assert own >= min((1 - TIE) * best, best - RESIDUAL_FLOOR), wrong
        num_beyond_tie += own < (1 - TIE) * best
        factor[step] = (kernel[pick] - factor[:step, pick] @ factor[:step]) / own**0.5
        residual -= factor[step].square()
        residual[pick] = -torch.inf
    return num_beyond_tie


def assert_farthest(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    picks: torch.Tensor,
    bonus: torch.Tensor | None = None,
) -> None:
    """Check picks that farthest-first traversal made in this order, of an image.

    Args:
        x: [N, D] rows.
        weight: [N] or None.
        picks: [K] rows.
        bonus: [N] in [0, 1], or None.

    Raises:
        AssertionError: a pick repeats, or is nearer to the others than the farthest, but for TIE.
    """
    unit = unit_rows64(x)
    similarity = unit @ unit.T
    weight = torch.ones(len(x), device=x.device) if weight is None else weight
    weight = weight.double() / max(float(weight.max()), 1e-300)
    score = 1 - similarity.clone().fill_diagonal_(-1).amax(1)
    if bonus is not None:
        score = bonus = bonus.double()
    nearest = torch.full_like(score, -1.0)
    for step, row in enumerate(picks.tolist()):
        _assert_best(step, score, row, TIE)
        nearest = torch.maximum(nearest, similarity[row])
        own = weight * (1 - nearest) + (0 if bonus is None else bonus)
        score = torch.where(score.isneginf(), score, own)
        score[row] = -torch.inf


def assert_cover(x: torch.Tensor, weight: torch.Tensor | None, picks: torch.Tensor) -> None:
    """Check picks that greedy coverage made in this order, of an image.

    Args:
        x: [N, D] rows.
        weight: [N] or None.
        picks: [K] rows.

    Raises:
        AssertionError: a pick repeats, or covers less than the best, but for TIE of what the first
            one covers.
    """
    unit = unit_rows64(x)
    similarity = unit @ unit.T
    likeness = ((similarity.masked_fill(similarity > COPY, 1) - 1) / TEMPERATURE).exp()
    weight = torch.ones(len(x), device=x.device) if weight is None else weight
    need = weight.double() / max(float(weight.max()), 1e-300) / likeness.sum(1)
    covered = torch.zeros_like(need)
    is_left = torch.ones_like(need, dtype=torch.bool)
    slack = TIE * float((likeness * need[:, None]).sum(0).max())
    for step, row in enumerate(picks.tolist()):
        gain = ((likeness - covered[:, None]).clamp(min=0) * need[:, None]).sum(0)
        _assert_best(step, gain.masked_fill(~is_left, -torch.inf), row, slack)
        covered = torch.maximum(covered, likeness[row])
        is_left[row] = False


def _assert_best(step: int, score: torch.Tensor, row: int, slack: float) -> None:
    own, best = float(score[row]), float(score.max())
    assert own >= best - slack, f"step {step}: picked {own:.8g}, the best is {best:.8g}"


def assert_rounds(
    x: torch.Tensor,
    target: int,
    survivors_after: Callable[[int], torch.Tensor],
    *,
    tau: float,
    tau_relative: bool,
    gamma: float,
) -> torch.Tensor:
    """Check rounds of graph reduction of one image, one by one, and return what is left.

    survivors_after(r) must give the survivors of the first r rounds.

    Raises:
        AssertionError: a round dropped too many or too few tokens, one of dst, or one that is less
            redundant than one it left.
    """
    unit = unit_rows64(x)
    before = torch.arange(len(x), device=x.device)
    for round_index in range(MAX_ROUNDS):
        after = survivors_after(round_index + 1)
        if len(before) > target:
            _assert_round(unit, before, after, target, round_index % 2, tau, tau_relative, gamma)
        if len(after) == len(before):
            break
        before = after
    return after


def _assert_round(
    unit: torch.Tensor,
    before: torch.Tensor,
    after: torch.Tensor,
    target: int,
    parity: int,
    tau: float,
    tau_relative: bool,
    gamma: float,
) -> None:
    src, dst = before[parity::2], before[1 - parity :: 2]
    similarity = unit[src] @ unit[dst].T
    threshold = tau + (float(similarity.mean()) if tau_relative else 0.0)
    threshold = min(threshold, DUPLICATE_SIMILARITY)
    # Cosines within TIE of the threshold may count as edges or not, and each changes the score.
    bounds = torch.stack(
        [_redundancy(similarity, threshold + slack, threshold, gamma) for slack in (TIE, -TIE)]
    )
    low, high = bounds.amin(0), bounds.amax(0)
    kept = torch.isin(src, after)
    assert torch.isin(dst, after).all(), "a dst token was dropped"
    assert len(after) == len(dst) + int(kept.sum()), "a token that was gone came back"
    most = min(-int(-MAX_DROP * len(src) // 1), len(before) - target)
    fewest = min(int((low > 0).sum()), most)
    most = min(int((high > 0).sum()), most)
    num_dropped = int((~kept).sum())
    assert fewest <= num_dropped <= most, f"dropped {num_dropped}, not {fewest} to {most}"
    if 0 < num_dropped < len(src):
        dropped, left = float(high[~kept].min()), float(low[kept].max())
        assert dropped >= (1 - TIE) * left, f"dropped {dropped:.8g}, but left {left:.8g}"


def _redundancy(
    similarity: torch.Tensor, threshold: float, tau: float, gamma: float
) -> torch.Tensor:
    edge = similarity >= threshold
    degree = edge.sum(1)
    mean_similarity = torch.where(edge, similarity, 0.0).sum(1) / degree.clamp(min=1)
    return degree * torch.exp(gamma * (mean_similarity - tau))


def assert_selection(
    x: torch.Tensor,
    relevance: torch.Tensor | None,
    target: int,
    budget: int,
    backend: Backend,
    *,
    tau: float,
    tau_relative: bool,
    gamma: float,
) -> tuple[torch.Tensor, int]:
    """Select in one image as mode `script` does, and check all of it.

    Returns the picks, and how many of them are no tie (as `assert_picks`).

    Raises:
        AssertionError: as `assert_rounds` and `assert_picks`.
    """
    settings: dict[str, Any] = {"tau": tau, "tau_relative": tau_relative, "gamma": gamma}
    similarity = cosine_similarity([x], backend=backend)

    def reduce(num_rounds: int) -> Pool:
        return reduce_graph(similarity, [target], **settings, num_rounds=num_rounds)

    def survivors_after(num_rounds: int) -> torch.Tensor:
        return rows_of(*reduce(num_rounds), [len(x)])[0]

    left = assert_rounds(x, target, survivors_after, **settings)
    pool = reduce(MAX_ROUNDS)
    (candidates,) = rows_of(*pool, [len(x)])
    assert torch.equal(candidates, left), "all rounds at once leave other tokens"
    picks = greedy_map(similarity, relevance, [budget], pool=pool)
    assert len(picks) == budget
    if len(candidates) == budget:
        assert torch.equal(picks, candidates), "not all of the pool is picked"
        return picks, 0
    return picks, assert_picks(x, relevance, candidates, picks)


def unit_rows64(x: torch.Tensor) -> torch.Tensor:
    """`unit_rows` in float64: the same rows are zero, the others as long as float64 can say."""
    finite = x.double().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    unit = torch.nn.functional.normalize(finite, dim=1, eps=0.0)
    return torch.where(unit_rows(x).any(1, keepdim=True), unit, 0.0)


def num_differing(picks: torch.Tensor, reference: torch.Tensor) -> int:
    """How many of the picks, in any order, the reference does not have."""
    return int((~torch.isin(picks, reference)).sum())


def rows_of(
    pool_rows: torch.Tensor, counts: torch.Tensor, lengths: Sequence[int]
) -> list[torch.Tensor]:
    """The rows of each image in a pool."""
    images = pool_rows.split(list(lengths))
    return [rows[:count] for rows, count in zip(images, counts.tolist(), strict=True)]
