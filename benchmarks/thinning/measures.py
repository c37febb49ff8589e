"""What a thinned tower makes of one photograph: a line of results."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch.nn.functional import cosine_similarity

from vllm_script.budget import num_kept
from vllm_script.kernels import inverse_norms, normalize_relevance, unit_rows
from vllm_script.pruning import PruningParams, run_mode

from ..photos.folder import Photo
from ..photos.measures import worth
from ..photos.relevance import TextRelevance, noisy, relevances
from ..photos.tower import Tower
from ..photos.truth import Region, askable, segments_of
from .hook import Cut, thinned_after
from .scores import SCORES

WHOLE = "whole tower"
SURVIVORS = "survivors"
"""In place of a keep ratio: all that the tower leaves."""


class Features(NamedTuple):
    """What a tower makes of a photograph."""

    kept: torch.Tensor
    """[n] the patches that it has features of, ascending."""
    tokens: torch.Tensor
    """[n, D] these features."""


def measure(
    photo: Photo,
    tower: Tower,
    text: TextRelevance | None,
    cuts: Sequence[Cut],
    scores: Sequence[str],
    ratios: Sequence[float],
) -> dict[str, Any]:
    """Thin one photograph in every way, and select among the survivors.

    Returns:
        the photograph's line. `fidelity`, by score and cut: cosine of the survivors' features with
        the whole tower's, the same without the photograph's mean, and the distance of a dropped
        patch to its nearest survivor, the same without the mean. `kept`, by score, cut and keep
        ratio: `photos.measures.worth` of each object asked for.
    """
    picture = Image.open(photo.path)
    whole = tower.tokens_of(picture)
    things = [region for region in askable(photo, len(whole)) if region.is_thing]
    segments = segments_of(photo, len(whole))
    asked = [
        _relevance(whole, thing, text, seed=photo.id * 1000 + place)
        for place, thing in enumerate(things)
    ]

    def select(features: Features) -> dict[str, list[list[float]]]:
        cosines = _cosines(whole, features)
        found = {SURVIVORS: [worth(features.kept, thing, segments, cosines) for thing in things]}
        for ratio in ratios:
            kept = [_select(features, own, len(whole), ratio) for own in asked]
            pairs = zip(kept, things, strict=True)
            found[f"{ratio:g}"] = [worth(own, thing, segments, cosines) for own, thing in pairs]
        return found

    line: dict[str, Any] = {
        "id": photo.id,
        "panoptic": photo.is_panoptic,
        "tokens": len(whole),
        "segments": [{"size": segment.size} for segment in segments],
        "objects": [
            {"thing": True, "size": thing.size, "tokens": int(thing.tokens.sum())}
            for thing in things
        ],
        "fidelity": {score: {} for score in scores},
        "kept": {WHOLE: select(Features(torch.arange(len(whole)), whole))},
    }
    line["kept"] |= {score: {} for score in scores}
    for cut in cuts:
        for score, features in _thinned(tower, picture, cut, len(whole), scores).items():
            line["fidelity"][score][str(cut)] = _fidelity(whole, features)
            line["kept"][score][str(cut)] = select(features)
    return line


@torch.inference_mode()
def _thinned(
    tower: Tower, picture: Image.Image, cut: Cut, num_patches: int, scores: Sequence[str]
) -> Mapping[str, Features]:
    """Features of the survivors, by score; the layers before the cut run once."""
    assert tower.blocks is not None, "checked when the command starts"
    count = cut.count(num_patches)

    def choose(states: torch.Tensor) -> Sequence[torch.Tensor]:
        return [SCORES[score](states, count) for score in scores]

    with thinned_after(tower.blocks, cut.after, num_patches, choose) as chosen:
        tokens = tower.encode(tower.pixels_of(picture)[None])
    return {s: Features(k, t) for s, k, t in zip(scores, *chosen, tokens, strict=True)}


def _relevance(tokens: torch.Tensor, thing: Region, text: TextRelevance | None, seed: int) -> Any:
    """A function of features that says how relevant each is to the thing.

    A text tower reads the features. Without one it is the true mask with noise, which has nothing
    to do with what the tower has made of the patches.
    """
    if text is not None:
        return lambda features: text(features.tokens, thing.category)
    own = relevances(tokens, thing.category, thing.tokens, None, seed)[noisy(2)]
    return lambda features: normalize_relevance(own[features.kept])


def _select(features: Features, relevance: Any, num_tokens: int, ratio: float) -> torch.Tensor:
    """Patches that `script` keeps of those that are left; the budget is one of all patches."""
    budget = num_kept(num_tokens, num_tokens, keep_ratio=ratio)
    assert budget is not None, "every ratio is below 1"
    own = relevance(features)
    return features.kept[run_mode(features.tokens, budget, own, "script", PruningParams())]


def _cosines(whole: torch.Tensor, features: Features) -> torch.Tensor:
    """Cosines [N, N] of the whole tower's features with those that may stand for them."""
    unit = torch.zeros_like(whole)
    unit[features.kept] = unit_rows(features.tokens, inverse_norms(features.tokens))
    return unit_rows(whole, inverse_norms(whole)) @ unit.T


def _fidelity(whole: torch.Tensor, features: Features) -> list[float]:
    """Cosine with the whole tower's features and distance of the dropped, raw and centered."""
    dropped = torch.ones(len(whole), dtype=torch.bool)
    dropped[features.kept] = False
    found = []
    for mean in (torch.zeros_like(whole[0]), whole.mean(0)):
        own, all_of_them = features.tokens - mean, whole - mean
        same = cosine_similarity(own, all_of_them[features.kept]).mean()
        nearest = _cosines(all_of_them, Features(features.kept, own))[dropped][:, features.kept]
        found.append((same, 1 - nearest.amax(1).mean()))
    return [round(float(value), 5) for value in itertools.chain(*zip(*found, strict=True))]
