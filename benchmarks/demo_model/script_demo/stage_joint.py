"""Stage 4: everything together on pictures and questions, all tiles, sometimes with rows dropped.

The naming and phrase losses stay on, so that the tower keeps serving both the language model and
`clip` relevance.
"""

import numpy as np
import torch
from torch.nn import functional as F

from .batches import pictures_of, texts_of
from .forward import answer_logits, patch_states, visual_rows
from .metrics import Metrics, answer_metrics
from .model import Demo
from .objectives import dense_loss, naming_loss, phrase_loss
from .prompts import EVERYTHING, Keep, prompts_of
from .scenes import Scene
from .stage import Batch, Stage, Tools, choose_questions
from .tiling import PATCHES
from .words import TYPES

QUESTIONS = 10
NAMING_WEIGHT, PHRASE_WEIGHT, DENSE_WEIGHT = 0.3, 0.3, 0.1
FIRST_WHOLE_SHARE, LAST_WHOLE_SHARE = 0.1, 0.7
"""How often a prompt holds all visual rows, at the start and at the end of the stage."""
RANDOM_SHARE = 0.15
"""How often things lose rows too; kept low, or pruning would cost nothing whatever it drops."""


def make(tools: Tools, scenes: list[Scene], progress: float, rng: np.random.Generator) -> Batch:
    pictures, labels = pictures_of(scenes, PATCHES, rng)
    asked = [choose_questions(scene, QUESTIONS, set(TYPES)) for scene in scenes]
    prompts = prompts_of(scenes, labels, asked, tools.tokenizer, _choose_keep(progress, rng), rng)
    return pictures, texts_of(scenes, labels, tools.clip, rng), prompts


def loss(demo: Demo, tools: Tools, batch: Batch) -> torch.Tensor:
    pictures, texts, prompts = batch
    states = patch_states(demo, pictures)
    rows = visual_rows(demo, states)
    projected = rows[:-1].unflatten(0, pictures.thing.shape)
    return (
        F.cross_entropy(*answer_logits(demo, prompts, rows))
        + NAMING_WEIGHT * naming_loss(demo, pictures, projected, tools.word_ids)
        + PHRASE_WEIGHT * phrase_loss(demo, pictures, texts, states)
        + DENSE_WEIGHT * dense_loss(demo, pictures, states)
    )


def measure(demo: Demo, tools: Tools, batch: Batch) -> Metrics:
    pictures, _, prompts = batch
    rows = visual_rows(demo, patch_states(demo, pictures))
    return answer_metrics(prompts, *answer_logits(demo, prompts, rows))


def _choose_keep(progress: float, rng: np.random.Generator) -> Keep:
    whole = FIRST_WHOLE_SHARE + progress * (LAST_WHOLE_SHARE - FIRST_WHOLE_SHARE)
    draw = rng.random()
    if progress >= 1 or draw < whole:
        return EVERYTHING
    if draw < whole + RANDOM_SHARE:
        share = rng.uniform(0.15, 0.6)
        return Keep(things=share, background=share, centres=share, newlines=False)
    return Keep(background=rng.uniform(0.02, 0.3), newlines=rng.random() < 0.5)


JOINT = Stage(
    name="joint",
    scenes=4_000,
    cost=6.0,
    batch_factor=1,
    rates={"language": 4e-4, "projector": 4e-4, "tower": 2e-4, "text": 2e-4},
    make=make,
    loss=loss,
    measure=measure,
)
