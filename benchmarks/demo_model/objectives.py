"""What the stages minimise."""

import torch
from torch.nn import functional as F

from ..scenes.words import COLORS, EMPTY, HORIZONTAL, MARK, NAMES, VERTICAL
from .batches import Pictures, Texts
from .forward import patch_embeddings, text_embeddings, tile_embeddings
from .labels import NOTHING, UNSURE
from .model import Demo

TAUGHT_WORDS = (*COLORS, *NAMES, *HORIZONTAL, *VERTICAL, MARK, EMPTY)
"""The words a projected patch is a sum of, in the order of patch_words' last axis."""
BACKGROUND_WEIGHT = 0.3
CAPTION_WEIGHT = 0.2
SHAPE_WEIGHT = 2.0


def dense_loss(demo: Demo, pictures: Pictures, states: torch.Tensor) -> torch.Tensor:
    """Return the loss of reading every patch's labels off the tower's states [T, 1 + K, W]."""
    patches = states[:, 1:].float()
    sides = demo.side_head(patches)
    shown = pictures.thing >= 0
    loss = _label_loss(demo.color_head(patches), pictures.color)
    loss = loss + SHAPE_WEIGHT * _label_loss(demo.name_head(patches), pictures.name)
    loss = loss + 0.3 * _label_loss(sides[..., :3], pictures.horizontal, shown)
    loss = loss + 0.3 * _label_loss(sides[..., 3:], pictures.vertical, shown)
    centre = F.binary_cross_entropy_with_logits(
        demo.centre_head(patches)[..., 0], pictures.centre.float(), reduction="none"
    )
    return loss + _mean(centre, shown)


def phrase_loss(demo: Demo, pictures: Pictures, texts: Texts, states: torch.Tensor) -> torch.Tensor:
    """Return the loss of giving high similarity to the patches that a text is about, else low."""
    similarity = similarity_of(demo, pictures, texts, states)
    logits = similarity * demo.phrase_scale.exp() + demo.phrase_bias
    positive, other, empty = pairs_of(pictures, texts)
    loss = F.binary_cross_entropy_with_logits(logits, positive.float(), reduction="none")
    return _mean(loss, positive) + _mean(loss, other) + _mean(loss, empty)


def caption_loss(demo: Demo, texts: Texts, states: torch.Tensor) -> torch.Tensor:
    """Return CLIP's symmetric loss between tiles and captions; equal captions are no negatives."""
    logits = tile_embeddings(demo, states) @ text_embeddings(demo, texts.captions).T
    logits = logits * demo.clip.logit_scale.exp().clamp(max=100)
    same = (texts.captions[:, None] == texts.captions[None]).all(-1)
    same = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
    logits = logits.masked_fill(same, float("-inf"))
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def patch_words(pictures: Pictures) -> torch.Tensor:
    """Return [T, K, len(TAUGHT_WORDS)] float32: 1 for each word that a patch's projection sums."""
    shown = pictures.thing >= 0
    empty = ~shown
    parts = [
        _one_hot(pictures.color, len(COLORS)),
        _one_hot(pictures.name, len(NAMES)),
        _one_hot(pictures.horizontal, len(HORIZONTAL)),
        _one_hot(pictures.vertical, len(VERTICAL)),
        pictures.centre[..., None],
        empty[..., None],
    ]
    return torch.cat([part.float() for part in parts], -1)


def naming_loss(
    demo: Demo, pictures: Pictures, projected: torch.Tensor, word_ids: torch.Tensor
) -> torch.Tensor:
    """Return how far projected patches are from the sums of the word embeddings they should be.

    Args:
        projected: [T, K, LM_WIDTH] rows of the projector.
        word_ids: [len(TAUGHT_WORDS)] token ids.
    """
    words = demo.word_embeddings[word_ids.to(projected.device)].detach()
    hot = patch_words(pictures)
    error = (projected.float() - hot @ words).square().sum(-1) / words.square().sum(-1).mean()
    shown, empty = pictures.thing >= 0, pictures.thing == NOTHING
    loss = _mean(error, shown) + BACKGROUND_WEIGHT * _mean(error, empty)
    logits = F.normalize(projected.float(), dim=-1) @ F.normalize(words, dim=-1).T * 10
    first = 0
    for label, size in ((pictures.color, len(COLORS)), (pictures.name, len(NAMES))):
        loss = loss + _mean(_cross_entropy(logits[..., first : first + size], label), shown)
        first += size
    return loss


def similarity_of(
    demo: Demo, pictures: Pictures, texts: Texts, states: torch.Tensor
) -> torch.Tensor:
    """Return [T, K, M] cosine similarity of patches and the texts of their scene."""
    text = text_embeddings(demo, texts.phrases)[pictures.scene]  # [T, M, JOINT_WIDTH]
    return patch_embeddings(demo, states) @ text.transpose(1, 2)


def pairs_of(pictures: Pictures, texts: Texts) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return three [T, K, M] bool: text fits patch; patch is another thing; patch is empty."""
    relevant = texts.relevant[pictures.scene]  # [T, M, MAX_THINGS]
    thing = pictures.thing.clamp(min=0)[:, :, None].expand(-1, -1, relevant.shape[1])
    fits = relevant.transpose(1, 2).gather(1, thing)
    shown = (pictures.thing >= 0)[..., None]
    empty = (pictures.thing == NOTHING)[..., None].expand_as(fits)
    return fits & shown, ~fits & shown, empty


def _label_loss(
    logits: torch.Tensor, label: torch.Tensor, where: torch.Tensor | None = None
) -> torch.Tensor:
    """Return cross-entropy with class 0 for NOTHING; things and background weigh apart."""
    loss = _cross_entropy(logits, label + 1)
    if where is not None:
        return _mean(loss, where)
    return _mean(loss, label >= 0) + BACKGROUND_WEIGHT * _mean(loss, label == NOTHING)


def _cross_entropy(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Return [T, K]; meaningless where the label is negative."""
    flat = F.cross_entropy(logits.flatten(0, -2), label.clamp(min=0).flatten(), reduction="none")
    return flat.view_as(label)


def _mean(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Return the mean of the chosen values, 0 when there is none; no indexing, so no GPU sync."""
    return (values * where).sum() / where.sum().clamp(min=1)


def _one_hot(label: torch.Tensor, size: int) -> torch.Tensor:
    """Return [..., size]; all zero for NOTHING and UNSURE."""
    return F.one_hot(label.clamp(min=UNSURE) + 2, size + 2)[..., 2:]
