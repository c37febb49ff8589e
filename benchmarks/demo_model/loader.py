"""The stages as the training loop takes them. Batch i of one is the same whoever makes it."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from torch.utils.data import Dataset

from ..scenes.scene import scene_of
from ..scenes.splits import SPLITS, seed_of
from ..training import loop
from ..training.loader import in_order
from ..training.loop import Batch
from .model import Demo
from .stage import Stage, Tools
from .stages import STAGES

SEEDS_PER_STAGE = 400_000_000


@dataclass(frozen=True)
class Load:
    """How much of a stage's data there is at a time; see train.py for the meaning of each."""

    batch: int
    scale: float
    workers: int
    dev_scenes: int


def prepared(demo: Demo, tools: Tools, load: Load, device: str) -> list[loop.Stage]:
    """Return all stages, to be trained with `loop.run`."""
    return [_prepared(demo, tools, load, device, order) for order in range(len(STAGES))]


def _prepared(demo: Demo, tools: Tools, load: Load, device: str, order: int) -> loop.Stage:
    """Return stage number `order`."""
    stage = STAGES[order]
    batch = load.batch * stage.batch_factor
    scenes = max(1, round(stage.scenes * load.scale / batch)) * batch
    source = BatchSource(stage, order, tools, batch, scenes)
    return loop.Stage(
        name=stage.name,
        samples=scenes,
        batch=batch,
        cost=stage.cost,
        rates=stage.rates,
        batches=partial(in_order, source, workers=load.workers, pin=device == "cuda"),
        judges=partial(dev_batches, stage, tools, batch, max(load.dev_scenes, batch)),
        loss=partial(stage.loss, demo, tools),
        measure=partial(stage.measure, demo, tools),
    )


class BatchSource(Dataset):
    """The batches of a stage by number."""

    def __init__(self, stage: Stage, order: int, tools: Tools, batch: int, total: int) -> None:
        """`order` is the stage's place among the stages, `total` the scenes of its whole run."""
        self.stage, self.tools, self.batch, self.total = stage, tools, batch, total
        self.first_scene = order * SEEDS_PER_STAGE
        assert self.first_scene + total <= min(
            len(SPLITS["train"]), self.first_scene + SEEDS_PER_STAGE
        )

    def __getitem__(self, number: int) -> Batch:
        first = self.first_scene + number * self.batch
        scenes = [scene_of(seed_of("train", first + i)) for i in range(self.batch)]
        rng = np.random.default_rng((first, self.batch))
        return self.stage.make(self.tools, scenes, number * self.batch / self.total, rng)


def dev_batches(stage: Stage, tools: Tools, batch: int, num_scenes: int) -> list[Batch]:
    """Return the development scenes that a stage is judged by, as at the end of the stage."""
    batches = []
    for first in range(0, num_scenes, batch):
        scenes = [scene_of(seed_of("dev", first + i)) for i in range(batch)]
        batches.append(stage.make(tools, scenes, 1.0, np.random.default_rng(first)))
    return batches
