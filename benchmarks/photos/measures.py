"""What every selection keeps of one photograph: a line of results, in counts of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from sklearn.metrics import roc_auc_score

from vllm_script import select_visual_tokens
from vllm_script.budget import num_kept
from vllm_script.kernels import cosine_similarity, inverse_norms, reduce_graph, unit_rows
from vllm_script.pruning import MODES, PruningParams
from vllm_script.pruning.params import GEOMETRIES

from .folder import Photo
from .relevance import TextRelevance, relevances
from .truth import SIZES, Region, askable, segments_of

ALONE = "relevance alone"
"""Not a mode: the most relevant tokens, whatever they look like."""
NO_QUERY = ""
"""Relevance where none is read."""


class Way(NamedTuple):
    """A mode, and the geometry that it reads."""

    mode: str
    geometry: str

    def __str__(self) -> str:
        return self.mode if self.geometry == "raw" else f"{self.mode} {self.geometry}"

    def select(
        self, tokens: torch.Tensor, budget: int, relevance: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Kept indices [budget] of tokens [N, D]."""
        return select_visual_tokens(
            tokens, budget, relevance=relevance, mode=self.mode, geometry=self.geometry
        )


WAYS = [
    Way(mode, geometry)
    for mode, its in MODES.items()
    for geometry in (GEOMETRIES if "geometry" in its.reads else GEOMETRIES[:1])
]
"""All modes, in each geometry that they read."""


def measure(
    photo: Photo, tokens: torch.Tensor, text: TextRelevance | None, ratios: Sequence[float]
) -> dict[str, Any]:
    """Select from a photograph in every way.

    Args:
        tokens: [N, D] of a square grid.

    Returns:
        the photograph's line: `objects` and `segments`, with their tokens, those of them in GSP's
        pool and the AUROC of each relevance; `kept`, by way, relevance and keep ratio, one list
        for each object (see `worth`).
    """
    num_tokens = len(tokens)
    regions = askable(photo, num_tokens)
    things = [region for region in regions if region.is_thing]
    segments = segments_of(photo, num_tokens)
    cosines = _cosines(tokens)
    in_pool = _in_pool(tokens)
    by_source = [
        relevances(tokens, region.category, region.tokens, text, seed=photo.id * 1000 + place)
        for place, region in enumerate(regions)
    ]
    off_diagonal = cosines[~torch.eye(num_tokens, dtype=torch.bool)]
    line: dict[str, Any] = {
        "id": photo.id,
        "panoptic": photo.is_panoptic,
        "tokens": num_tokens,
        "pool": int(in_pool.sum()),
        "cosine": round(off_diagonal.mean().item(), 4),
        "neighbours": round(
            (off_diagonal >= off_diagonal.mean() + PruningParams().tau).float().mean().item(), 4
        ),
        "segments": [_described(segment, in_pool) for segment in segments],
        "objects": [
            _described(region, in_pool)
            | {"auroc": {name: _auroc(region, r) for name, r in sources.items()}}
            for region, sources in zip(regions, by_source, strict=True)
        ],
        "kept": {},
    }
    asked = [sources for region, sources in zip(regions, by_source, strict=True) if region.is_thing]
    if not things:
        return line
    for ratio in ratios:
        budget = num_kept(num_tokens, num_tokens, keep_ratio=ratio)
        assert budget is not None, "every ratio is below 1"
        for way in WAYS:
            kept = [way.select(tokens, budget)] * len(things)
            _note(line, (str(way), NO_QUERY, ratio), kept, things, segments, cosines)
        for source in asked[0]:
            for way in WAYS:
                if MODES[way.mode].reads_query:
                    kept = [way.select(tokens, budget, own[source]) for own in asked]
                    _note(line, (str(way), source, ratio), kept, things, segments, cosines)
            kept = [
                own[source].argsort(descending=True, stable=True)[:budget].sort().values
                for own in asked
            ]
            _note(line, (ALONE, source, ratio), kept, things, segments, cosines)
    return line


def _cosines(tokens: torch.Tensor) -> torch.Tensor:
    """Cosines [N, N] of tokens [N, D]."""
    unit = unit_rows(tokens, inverse_norms(tokens))
    return unit @ unit.T


def _in_pool(tokens: torch.Tensor) -> torch.Tensor:
    """Which tokens [N] GSP leaves where it thins to half of them, bool."""
    pool = reduce_graph(
        cosine_similarity([tokens]), [(len(tokens) + 1) // 2], **PruningParams().graph
    )
    inside = torch.zeros(len(tokens), dtype=torch.bool)
    inside[pool.rows[: int(pool.counts[0])]] = True
    return inside


def _described(region: Region, in_pool: torch.Tensor) -> dict[str, Any]:
    return {
        "category": region.category,
        "thing": region.is_thing,
        "size": region.size,
        "tokens": int(region.tokens.sum()),
        "in_pool": int((region.tokens & in_pool).sum()),
    }


def _auroc(region: Region, relevance: torch.Tensor) -> float:
    """The chance that a token of the region is more relevant than one outside."""
    return round(float(roc_auc_score(region.tokens.numpy(), relevance.numpy())), 4)


def _note(
    line: dict[str, Any],
    setting: tuple[str, str, float],
    kept: Sequence[torch.Tensor],
    things: Sequence[Region],
    segments: Sequence[Region],
    cosines: torch.Tensor,
) -> None:
    mode, source, ratio = setting
    line["kept"].setdefault(mode, {}).setdefault(source, {})[f"{ratio:g}"] = [
        worth(own, thing, segments, cosines) for own, thing in zip(kept, things, strict=True)
    ]


def worth(
    kept: torch.Tensor, thing: Region, segments: Sequence[Region], cosines: torch.Tensor
) -> list[float]:
    """What one selection is worth.

    Args:
        kept: indices into the photograph's tokens.
        cosines: [N, N], of a token with each that may stand for it.

    Returns:
        tokens kept of the thing; mean distance, 1 - cosine, of a dropped token to its nearest kept
        one; and of each size class the segments with at least one token.
    """
    dropped = torch.ones(len(cosines), dtype=torch.bool)
    dropped[kept] = False
    distance = (1 - cosines[dropped][:, kept].amax(1)).mean().item()
    hit = [segment.size for segment in segments if segment.tokens[kept].any()]
    return [int(thing.tokens[kept].sum()), round(distance, 5), *(hit.count(s) for s in SIZES)]
