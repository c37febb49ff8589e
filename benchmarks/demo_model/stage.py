"""What a stage of training is; train.py runs the four of stages.py one after the other."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer

from ..scenes.questions import Question, questions_of
from ..scenes.scene import Scene
from ..training.loop import Batch, Metrics
from .model import Demo
from .objectives import TAUGHT_WORDS
from .text import for_clip, word_id


class Tools:
    """The tokenizers, and the ids of the words that patches are taught."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.clip = for_clip(tokenizer)
        self.word_ids = torch.tensor([word_id(tokenizer, word) for word in TAUGHT_WORDS])


@dataclass(frozen=True)
class Stage:
    """One stage: its data, its loss, and how fast each part of the model learns."""

    name: str
    scenes: int
    """Scenes at `--scale 1`."""
    cost: float
    """Time a scene takes, relative to the other stages; for the estimate of the whole."""
    batch_factor: int
    """Scenes a batch, as a multiple of `--batch`."""
    rates: dict[str, float]
    """Peak learning rate of each part in PARTS; a part not named stays as it is."""
    make: Callable[[Tools, list[Scene], float, np.random.Generator], Batch]
    """Build a batch: Pictures, then Texts or Prompts as the stage needs them. The third argument is
    the share of the stage that is done."""
    loss: Callable[[Demo, Tools, Batch], torch.Tensor]
    measure: Callable[[Demo, Tools, Batch], Metrics]


PARTS: dict[str, tuple[str, ...]] = {
    "tower": (
        "clip.vision_model.", "clip.visual_projection.", "color_head.", "name_head.",
        "side_head.", "centre_head.",
    ),
    "text": ("clip.text_model.", "clip.text_projection.", "clip.logit_scale", "phrase_"),
    "projector": ("llava.model.multi_modal_projector.", "llava.model.image_newline"),
    "language": ("llava.model.language_model.",),
}  # fmt: skip
"""Prefixes of the parameter names of each part."""


def choose_questions(scene: Scene, count: int, kinds: set[str]) -> list[Question]:
    """Return up to `count` questions of a scene, the kinds taking turns."""
    by_kind: dict[str, list[Question]] = {}
    for question in questions_of(scene):
        if question.kind in kinds:
            by_kind.setdefault(question.kind, []).append(question)
    turns = [(turn, question) for asked in by_kind.values() for turn, question in enumerate(asked)]
    turns.sort(key=lambda pair: pair[0])
    return [question for _, question in turns[:count]]
