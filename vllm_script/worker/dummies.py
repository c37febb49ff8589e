"""What is tried with the dummies that vLLM profiles memory with, before anybody is answered.

So the memory of selections is part of the profile, and the start-up ends where a layout does not
fit the model, or tensor-parallel ranks would keep different tokens.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from ..config import ScriptConfig
from ..kernels import Backend
from ..plan import make_plan
from .encoded_image import EncodedImage
from .ranks import check_ranks_agree
from .warm_up import are_compiled

if TYPE_CHECKING:
    from .model import PrunedModel


def thin_one(model: PrunedModel, config: ScriptConfig, modality: str, fields: Any) -> None:
    """Encode a dummy by a thinned vision tower; nothing where the server's is whole.

    Ranks that left different patches would add up states of these.

    Args:
        config: of the server.
        fields: of a batch of dummies.

    Raises:
        RuntimeError: the tower leaves other patches than the layout says, or not the same ones on
            all ranks.
    """
    plan = replace(make_plan(config, query=()), keep_ratio=None, visual_token_budget=1)
    item = next(model.split(fields, 1))
    thinning = model.thinning_of(modality, item, plan)
    if thinning is None:
        return
    image = model.encode(modality, item, thinning)
    model.feature_cache.check(image)
    check_rows(image)
    check_ranks_agree(thinning.survivors.patches)


def prune_one(
    model: PrunedModel, config: ScriptConfig, modality: str, fields: Any, step_tokens: int
) -> int:
    """Prune a dummy that vLLM leaves whole, as many times as a step may have such items.

    It comes before the rows that stock vLLM makes of the item, so that the two do not add up.

    Args:
        config: of the server.
        fields: of a batch of dummies.
        step_tokens: visual tokens of a step, at most.

    Returns:
        the rows that the model should make of each.

    Raises:
        RuntimeError: the model encodes otherwise than the layout says, or ranks keep different
            tokens.
    """
    plan = make_plan(config, query=(((0, 1),),))
    image = model.encode(modality, next(model.split(fields, 1)))
    model.feature_cache.check(image)
    check_rows(image)
    layout = image.layout
    count = plan.num_kept(*layout.counts)
    if count is not None:
        images = _as_in_a_step(image, step_tokens, config.kernels)
        selections = model.selector.select(images, [plan] * len(images))
        for selection in selections:
            selection.check(count)
        check_ranks_agree(torch.cat([selection.kept for selection in selections]))
    return layout.num_placeholders


def check_rows(image: EncodedImage) -> None:
    """Raise RuntimeError where an encoded image is not what its layout says."""
    found, candidates = len(image.features), image.layout.candidates
    if image.survivors is None:
        if found < (fewest := int(candidates.max()) + 1):
            raise unknown_model(found, fewest)
        return
    patches, num_candidates = image.survivors
    if found != len(patches):
        raise unknown_model(found, len(patches))
    can_be_kept = int(torch.isin(candidates, patches.cpu()).sum())
    if can_be_kept != num_candidates:
        raise unknown_model(can_be_kept, num_candidates)


def unknown_model(found: int, expected: int) -> RuntimeError:
    """The error where the model encodes an item otherwise than its layout says."""
    return RuntimeError(
        f"the model returns {found} rows for an image, its layout has {expected}: this plugin "
        "does not know this model"
    )


def _as_in_a_step(image: EncodedImage, step_tokens: int, kernels: Backend) -> list[EncodedImage]:
    """The largest item, and as many copies of it as a step may have besides.

    Each copy has memory of its own, and no frames: videos are selected from one by one, and memory
    is to be profiled for items that are selected from together. In plain PyTorch no items are, so
    there is no copy.
    """
    images, still = [image], replace(image.layout, num_frames=1, even=False)
    if are_compiled(kernels, image.features.device):
        for _ in range((step_tokens - 1) // still.num_patches):
            images.append(EncodedImage(image.states.clone(), image.features.clone(), still))
    return images
