"""Stage 3: the projector learns to say what a patch shows in the language model's words.

The tower stays as it is: it knows already, and a projector that knows nothing would disturb it.
"""

import numpy as np
import torch

from .batches import pictures_of
from .forward import patch_states
from .metrics import Metrics, naming_metrics
from .model import Demo
from .objectives import naming_loss
from .scenes import Scene
from .stage import Batch, Stage, Tools
from .tiling import PATCHES


def make(tools: Tools, scenes: list[Scene], progress: float, rng: np.random.Generator) -> Batch:
    pictures, _ = pictures_of(scenes, PATCHES, rng)
    return (pictures,)


def loss(demo: Demo, tools: Tools, batch: Batch) -> torch.Tensor:
    (pictures,) = batch
    projected = demo.projector(patch_states(demo, pictures)[:, 1:])
    return naming_loss(demo, pictures, projected, tools.word_ids)


def measure(demo: Demo, tools: Tools, batch: Batch) -> Metrics:
    (pictures,) = batch
    projected = demo.projector(patch_states(demo, pictures)[:, 1:])
    return naming_metrics(demo, pictures, projected, tools.word_ids)


PROJECTOR = Stage(
    name="projector",
    scenes=2_400,
    cost=1.5,
    batch_factor=1,
    rates={"projector": 1e-3},
    make=make,
    loss=loss,
    measure=measure,
)
