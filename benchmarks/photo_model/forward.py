"""The model's loss and what it is judged by, at the tokens of the answers alone."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from ..training.loop import Batch, Metrics
from .batches import IGNORED
from .questions import KINDS


def answer_logits(model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return logits [A, V], their targets [A], and the sample [A] that each belongs to.

    A is the number of tokens of all answers, their ends among them.
    """
    (samples,) = batch
    states = model.model(
        input_ids=samples.ids, attention_mask=samples.mask, pixel_values=samples.pixels
    ).last_hidden_state
    targets = samples.labels[:, 1:]
    sample, place = (targets != IGNORED).nonzero(as_tuple=True)
    return model.lm_head(states[sample, place]), targets[sample, place], sample


def loss_of(model: Any, batch: Batch) -> torch.Tensor:
    """Mean over samples of the mean cross-entropy of their answers' tokens.

    So a word weighs as much as a sentence.
    """
    logits, targets, sample = answer_logits(model, batch)
    each = F.cross_entropy(logits.float(), targets, reduction="none")
    lengths = torch.bincount(sample)
    return (each / lengths[sample]).sum() / len(lengths)


def measure(model: Any, batch: Batch) -> Metrics:
    """Return whether answers are right, by kind; of captions the cross-entropy of their tokens."""
    logits, targets, sample = answer_logits(model, batch)
    each = F.cross_entropy(logits.float(), targets, reduction="none")
    wrong = torch.zeros(len(batch[0].kind), device=logits.device)
    wrong.index_add_(0, sample, (logits.argmax(-1) != targets).float())
    found: Metrics = {}
    for index, (kind, mistakes) in enumerate(zip(batch[0].kind.tolist(), wrong, strict=True)):
        name = KINDS[kind]
        values = each[sample == index].tolist() if name == "caption" else [float(mistakes == 0)]
        found.setdefault(name, []).extend(values)
    return found
