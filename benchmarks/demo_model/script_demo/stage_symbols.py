"""Stage 2: the language model learns to answer from ideal visual rows, before it meets real ones.

A row is what a perfect projector would make of its patch: the sum of the embeddings of the words
that describe it. Noise and forgotten words stand for what a real tower gets wrong.
"""

import numpy as np
import torch
from torch.nn import functional as F

from .batches import Pictures, pictures_of
from .forward import answer_logits
from .metrics import Metrics, answer_metrics
from .model import Demo
from .objectives import patch_words
from .prompts import Keep, prompts_of
from .scenes import Scene
from .stage import Batch, Stage, Tools, choose_questions
from .tiling import PATCHES
from .words import COLORS, NAMES

QUESTIONS = 10
KIND_STARTS = {
    "color": 0.0, "shape": 0.0, "digit": 0.15, "position": 0.18, "existence": 0.22, "count": 0.3,
}  # fmt: skip
"""Share of the stage from which a kind is asked: looking one thing up comes before counting."""
NOISE = 0.3
"""Standard deviation of the noise on a row, relative to that of a word embedding."""
FORGOTTEN_NAMES = 0.12


def make(tools: Tools, scenes: list[Scene], progress: float, rng: np.random.Generator) -> Batch:
    pictures, labels = pictures_of(scenes, PATCHES, rng, blank=True)
    kinds = {kind for kind, start in KIND_STARTS.items() if progress >= start}
    asked = [choose_questions(scene, QUESTIONS, kinds) for scene in scenes]
    # Short at first: steps are cheap, and there is less to look through.
    keep = Keep(
        things=rng.uniform(0.15, 0.4 + 0.6 * progress),
        background=rng.uniform(0.0, 0.02 + 0.08 * progress),
        newlines=rng.random() < 0.3 * progress,
        spread=rng.random() < 0.5,
    )
    return pictures, prompts_of(scenes, labels, asked, tools.tokenizer, keep, rng)


def loss(demo: Demo, tools: Tools, batch: Batch) -> torch.Tensor:
    pictures, prompts = batch
    return F.cross_entropy(*answer_logits(demo, prompts, _ideal_rows(demo, tools, pictures)))


def measure(demo: Demo, tools: Tools, batch: Batch) -> Metrics:
    pictures, prompts = batch
    return answer_metrics(
        prompts, *answer_logits(demo, prompts, _ideal_rows(demo, tools, pictures))
    )


def _ideal_rows(demo: Demo, tools: Tools, pictures: Pictures) -> torch.Tensor:
    """Return [T * PATCHES + 1, LM_WIDTH]: noisy sums of word embeddings, then the newline."""
    hot = patch_words(pictures)  # [T, PATCHES, words]
    names = slice(len(COLORS), len(COLORS) + len(NAMES))
    known = torch.rand_like(hot[..., :1]) >= FORGOTTEN_NAMES
    hot = torch.cat([hot[..., : names.start], hot[..., names] * known, hot[..., names.stop :]], -1)
    words = demo.word_embeddings[tools.word_ids.to(hot.device)]
    rows = (hot @ words).flatten(0, 1)
    rows = rows + torch.randn_like(rows) * NOISE * words.detach().std()
    return torch.cat([rows, demo.llava.model.image_newline[None]])


SYMBOLS = Stage(
    name="symbols",
    scenes=40_000,
    cost=0.5,
    batch_factor=2,
    # At 1e-3 and above the start that initialise.py gives is forgotten before it is of use.
    rates={"language": 5e-4, "projector": 5e-4},
    make=make,
    loss=loss,
    measure=measure,
)
