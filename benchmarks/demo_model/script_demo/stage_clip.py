"""Stage 1: the tower and CLIP's text side, from captions, phrases and labels of single patches."""

import numpy as np
import torch

from .batches import pictures_of, texts_of
from .forward import patch_states
from .metrics import Metrics, dense_metrics, phrase_metrics
from .model import Demo
from .objectives import CAPTION_WEIGHT, caption_loss, dense_loss, phrase_loss
from .scenes import Scene
from .stage import Batch, Stage, Tools
from .tiling import PATCHES

KEPT_PATCHES = 96
WHOLE_FROM = 0.7
"""Share of the stage after which the tower sees all patches of a tile."""


def make(tools: Tools, scenes: list[Scene], progress: float, rng: np.random.Generator) -> Batch:
    keep = KEPT_PATCHES if progress < WHOLE_FROM else PATCHES
    pictures, labels = pictures_of(scenes, keep, rng)
    return pictures, texts_of(scenes, labels, tools.clip, rng)


def loss(demo: Demo, tools: Tools, batch: Batch) -> torch.Tensor:
    pictures, texts = batch
    states = patch_states(demo, pictures)
    return (
        dense_loss(demo, pictures, states)
        + phrase_loss(demo, pictures, texts, states)
        + CAPTION_WEIGHT * caption_loss(demo, texts, states)
    )


def measure(demo: Demo, tools: Tools, batch: Batch) -> Metrics:
    pictures, texts = batch
    states = patch_states(demo, pictures)
    return dense_metrics(demo, pictures, states) | phrase_metrics(demo, pictures, texts, states)


CLIP = Stage(
    name="clip",
    scenes=14_000,
    cost=1.0,
    batch_factor=1,
    rates={"tower": 1e-3, "text": 1e-3},
    make=make,
    loss=loss,
    measure=measure,
)
