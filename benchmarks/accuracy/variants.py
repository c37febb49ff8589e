"""What the defaults are compared with: selections that differ from them in one thing each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from vllm_script.pruning import PruningParams, run_mode
from vllm_script.pruning.params import GEOMETRIES


@dataclass(frozen=True)
class Variant:
    """How the tokens of an image are chosen. The defaults here are the plugin's."""

    name: str
    mode: str = "script"
    source: str = "clip"
    flip: bool = False
    """Turn the sign of the scores around: the least relevant tokens are kept."""
    per_tile: bool = False
    """Give every tile an equal share and select in each alone, as the published code does."""
    newlines: bool = False
    """Also keep the newline of every row of patches that keeps a patch, beyond the budget."""
    params: PruningParams = PruningParams()


DEFAULT = Variant("default")


def _changed(name: str, **changes: Any) -> Variant:
    params = {key: changes.pop(key) for key in list(changes) if hasattr(DEFAULT.params, key)}
    return replace(DEFAULT, name=name, params=replace(DEFAULT.params, **params), **changes)


VARIANTS = (
    DEFAULT,
    _changed("tau 0 relative", tau=0.0, tau_relative=True),
    _changed("tau 0.2 relative", tau=0.2, tau_relative=True),
    _changed("tau 0.4 relative", tau=0.4, tau_relative=True),
    _changed("tau 0.2 absolute (published)", tau=0.2, tau_relative=False),
    _changed("tau 0.6 absolute", tau=0.6, tau_relative=False),
    _changed("gamma 0", gamma=0.0),
    _changed("gamma 4", gamma=4.0),
    _changed("pool_ratio 0.5", pool_ratio=0.5),
    _changed("pool_ratio 0.75", pool_ratio=0.75),
    _changed("pool_ratio 1 (no GSP)", pool_ratio=1.0),
    _changed("QCSP alone (cdpruner)", mode="cdpruner"),
    _changed("per tile", per_tile=True),
    _changed("newlines kept, beyond the budget", newlines=True),
    _changed("polarity turned around", flip=True),
    _changed("relevance embedding", source="embedding"),
    _changed("relevance embedding, polarity turned around", source="embedding", flip=True),
    _changed("relevance lm-attention", source="lm-attention"),
    _changed("relevance lm-attention, polarity turned around", source="lm-attention", flip=True),
    _changed("relevance none", source="none"),
    _changed("relevance none, pool_ratio 1 (no GSP)", source="none", pool_ratio=1.0),
    _changed("relevance alone", mode="top"),
    _changed("geometry centered", geometry="centered"),
    *(
        _changed(
            f"mode {mode}{f', {geometry}' * (geometry != 'raw')}", mode=mode, geometry=geometry
        )
        for mode in ("cdpruner", "coverage", "mmr", "divprune")
        for geometry in GEOMETRIES
    ),
    _changed("mode coverage, relevance none", mode="coverage", source="none"),
)


def select(
    variant: Variant,
    visual_tokens: torch.Tensor,
    budget: int,
    relevance: torch.Tensor | None,
    tiles: torch.Tensor,
) -> torch.Tensor:
    """Return the kept indices, ascending.

    Args:
        visual_tokens: [P, D] in reading order.
        relevance: [P] of the variant's source and sign.
        tiles: [P] number of the tile that each token comes from.
    """
    if not variant.per_tile:
        return _select_of_all(variant, visual_tokens, budget, relevance)
    kept = []
    for tile, share in _shares(tiles, budget).items():
        own = (tiles == tile).nonzero()[:, 0]
        own_relevance = None if relevance is None else relevance[own]
        kept.append(own[_select_of_all(variant, visual_tokens[own], share, own_relevance)])
    return torch.cat(kept).sort().values


def _select_of_all(
    variant: Variant, visual_tokens: torch.Tensor, budget: int, relevance: torch.Tensor | None
) -> torch.Tensor:
    """Select without regard to tiles."""
    if variant.mode == "top":
        assert relevance is not None
        return relevance.argsort(descending=True, stable=True)[:budget].sort().values
    return run_mode(visual_tokens, budget, relevance, variant.mode, variant.params)


def _shares(tiles: torch.Tensor, budget: int) -> dict[int, int]:
    """Tokens of each tile: equal, but for tiles that have fewer; at least one each if it can be."""
    sizes = dict(zip(*(t.tolist() for t in tiles.unique(return_counts=True)), strict=True))
    shares: dict[int, int] = {}
    left = budget
    for place, (tile, size) in enumerate(sorted(sizes.items(), key=lambda pair: pair[1])):
        share = min(size, left // (len(sizes) - place))
        if share:
            shares[tile] = share
        left -= share
    return shares
