"""The four stages, in the order of training: what each learns from, and what it is judged by.

clip        the tower and CLIP's text side, from captions, phrases and labels of single patches.
symbols     the language model learns to answer from ideal visual rows, before it meets real ones:
            sums of the embeddings of the words that describe a patch, with noise and forgotten
            words for what a real tower gets wrong.
projector   the projector learns to say what a patch shows in the language model's words. The tower
            stays as it is: it knows already, and a projector that knows nothing would disturb it.
joint       everything together on pictures and questions, all tiles, sometimes with rows dropped.
            The naming and phrase losses stay on, so that the tower keeps serving both the language
            model and `clip` relevance.
"""

import numpy as np
import torch
from torch.nn import functional as F

from ..scenes.scene import Scene
from ..scenes.tiling import PATCHES
from ..scenes.words import COLORS, NAMES, TYPES
from ..training.loop import Batch, Metrics
from .batches import Pictures, pictures_of, texts_of
from .forward import answer_logits, patch_states, visual_rows
from .metrics import answer_metrics, dense_metrics, naming_metrics, phrase_metrics
from .model import Demo
from .objectives import (
    CAPTION_WEIGHT,
    caption_loss,
    dense_loss,
    naming_loss,
    patch_words,
    phrase_loss,
)
from .prompts import EVERYTHING, Keep, prompts_of
from .stage import Stage, Tools, choose_questions

QUESTIONS = 10
"""Questions about a picture that share one prompt, in symbols and joint."""

KEPT_PATCHES = 96
WHOLE_FROM = 0.7
"""Share of the stage after which the tower sees all patches of a tile."""
KIND_STARTS = {
    "color": 0.0, "shape": 0.0, "digit": 0.15, "position": 0.18, "existence": 0.22, "count": 0.3,
}  # fmt: skip
"""Share of the stage from which a kind is asked: looking one thing up comes before counting."""
NOISE = 0.3
"""Standard deviation of the noise on a row, relative to that of a word embedding."""
FORGOTTEN_NAMES = 0.12
NAMING_WEIGHT, PHRASE_WEIGHT, DENSE_WEIGHT = 0.3, 0.3, 0.1
FIRST_WHOLE_SHARE, LAST_WHOLE_SHARE = 0.1, 0.7
"""How often a prompt holds all visual rows, at the start and at the end of the stage."""
RANDOM_SHARE = 0.15
"""How often things lose rows too; kept low, or pruning would cost nothing whatever it drops."""


def _make_clip(
    tools: Tools, scenes: list[Scene], progress: float, rng: np.random.Generator
) -> Batch:
    keep = KEPT_PATCHES if progress < WHOLE_FROM else PATCHES
    pictures, labels = pictures_of(scenes, keep, rng)
    return pictures, texts_of(scenes, labels, tools.clip, rng)


def _clip_loss(demo: Demo, tools: Tools, batch: Batch) -> torch.Tensor:
    pictures, texts = batch
    states = patch_states(demo, pictures)
    return (
        dense_loss(demo, pictures, states)
        + phrase_loss(demo, pictures, texts, states)
        + CAPTION_WEIGHT * caption_loss(demo, texts, states)
    )


def _measure_clip(demo: Demo, tools: Tools, batch: Batch) -> Metrics:
    pictures, texts = batch
    states = patch_states(demo, pictures)
    return dense_metrics(demo, pictures, states) | phrase_metrics(demo, pictures, texts, states)


CLIP = Stage(
    name="clip",
    scenes=14_000,
    cost=1.0,
    batch_factor=1,
    rates={"tower": 1e-3, "text": 1e-3},
    make=_make_clip,
    loss=_clip_loss,
    measure=_measure_clip,
)


def _make_symbols(
    tools: Tools, scenes: list[Scene], progress: float, rng: np.random.Generator
) -> Batch:
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


def _symbols_loss(demo: Demo, tools: Tools, batch: Batch) -> torch.Tensor:
    pictures, prompts = batch
    return F.cross_entropy(*answer_logits(demo, prompts, _ideal_rows(demo, tools, pictures)))


def _measure_symbols(demo: Demo, tools: Tools, batch: Batch) -> Metrics:
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
    make=_make_symbols,
    loss=_symbols_loss,
    measure=_measure_symbols,
)


def _make_projector(
    tools: Tools, scenes: list[Scene], progress: float, rng: np.random.Generator
) -> Batch:
    pictures, _ = pictures_of(scenes, PATCHES, rng)
    return (pictures,)


def _projector_loss(demo: Demo, tools: Tools, batch: Batch) -> torch.Tensor:
    (pictures,) = batch
    projected = demo.projector(patch_states(demo, pictures)[:, 1:])
    return naming_loss(demo, pictures, projected, tools.word_ids)


def _measure_projector(demo: Demo, tools: Tools, batch: Batch) -> Metrics:
    (pictures,) = batch
    projected = demo.projector(patch_states(demo, pictures)[:, 1:])
    return naming_metrics(demo, pictures, projected, tools.word_ids)


PROJECTOR = Stage(
    name="projector",
    scenes=2_400,
    cost=1.5,
    batch_factor=1,
    rates={"projector": 1e-3},
    make=_make_projector,
    loss=_projector_loss,
    measure=_measure_projector,
)


def _make_joint(
    tools: Tools, scenes: list[Scene], progress: float, rng: np.random.Generator
) -> Batch:
    pictures, labels = pictures_of(scenes, PATCHES, rng)
    asked = [choose_questions(scene, QUESTIONS, set(TYPES)) for scene in scenes]
    prompts = prompts_of(scenes, labels, asked, tools.tokenizer, _choose_keep(progress, rng), rng)
    return pictures, texts_of(scenes, labels, tools.clip, rng), prompts


def _joint_loss(demo: Demo, tools: Tools, batch: Batch) -> torch.Tensor:
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


def _measure_joint(demo: Demo, tools: Tools, batch: Batch) -> Metrics:
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
    make=_make_joint,
    loss=_joint_loss,
    measure=_measure_joint,
)


STAGES: tuple[Stage, ...] = (CLIP, SYMBOLS, PROJECTOR, JOINT)
