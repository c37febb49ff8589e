"""What the stages are judged by on held-out scenes: lists of values, one a case, to be averaged."""

import torch

from ..scenes.words import COLORS, NAMES, TYPES
from ..training.loop import Metrics
from .batches import Pictures, Texts
from .model import Demo
from .objectives import pairs_of, similarity_of
from .prompts import Prompts


def dense_metrics(demo: Demo, pictures: Pictures, states: torch.Tensor) -> Metrics:
    """Return whether the heads name each patch of a thing right; base tiles apart."""
    patches = states[:, 1:].float()
    color = demo.color_head(patches)[..., 1:].argmax(-1) == pictures.color
    name = demo.name_head(patches)[..., 1:].argmax(-1) == pictures.name
    shown = pictures.thing >= 0
    base = torch.diff(pictures.scene, prepend=pictures.scene[:1] - 1)[:, None] != 0
    return {
        "color": color[shown].float().tolist(),
        "name": name[shown & ~base].float().tolist(),
        "name_base": name[shown & base].float().tolist(),
    }


def phrase_metrics(demo: Demo, pictures: Pictures, texts: Texts, states: torch.Tensor) -> Metrics:
    """Return the area under the ROC curve of similarity against "the text is about this patch"."""
    similarity = similarity_of(demo, pictures, texts, states)
    positive, other, empty = pairs_of(pictures, texts)
    high = similarity[positive]
    areas = {}
    for name, negative in (("auc", other | empty), ("auc_things", other)):
        low = similarity[negative].sort().values
        areas[name] = [(torch.searchsorted(low, high).float().mean() / len(low)).item()]
    return areas


def naming_metrics(
    demo: Demo, pictures: Pictures, projected: torch.Tensor, word_ids: torch.Tensor
) -> Metrics:
    """Return whether the colour word and the name nearest to each projected patch are right.

    Args:
        projected: [T, K, LM_WIDTH] rows of the projector.
        word_ids: [len(TAUGHT_WORDS)] token ids.
    """
    words = demo.word_embeddings[word_ids.to(projected.device)]
    likeness = projected.float() @ words.T
    shown = pictures.thing >= 0
    first_name = len(COLORS)
    color = likeness[..., :first_name].argmax(-1) == pictures.color
    name = likeness[..., first_name : first_name + len(NAMES)].argmax(-1) == pictures.name
    return {"color": color[shown].float().tolist(), "name": name[shown].float().tolist()}


def answer_metrics(prompts: Prompts, logits: torch.Tensor, targets: torch.Tensor) -> Metrics:
    """Return, per kind and for "all", whether each answer is right in every token.

    Args:
        logits, targets: [A, VOCAB_SIZE] and [A] from forward.answer_logits; each token is predicted
            after the right ones before it, so all right means that greedy decoding is right.
    """
    scene = prompts.asked // prompts.token.shape[1]
    missed = (logits.argmax(-1) != targets).float()
    wrong = torch.zeros_like(prompts.kind, dtype=missed.dtype)
    wrong.index_put_((scene, prompts.question), missed, accumulate=True)
    right = (wrong == 0).float()
    table = {kind: right[prompts.kind == i].tolist() for i, kind in enumerate(TYPES)}
    return table | {"all": [value for values in table.values() for value in values]}
