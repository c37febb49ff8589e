"""Batches made in worker processes. Batch i of a stage is the same whoever makes it, and when."""

import numpy as np
from torch.utils.data import DataLoader, Dataset

from ..scenes.scene import scene_of
from ..scenes.splits import SPLITS, seed_of
from .stage import Batch, Stage, Tools

SEEDS_PER_STAGE = 400_000_000
PREFETCH = 2


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


def train_batches(
    source: BatchSource, start: int, stop: int, workers: int, pin: bool
) -> DataLoader:
    """Return batches `start` to `stop`, in order; 0 workers makes them in this process."""
    return DataLoader(
        source,
        batch_size=None,
        sampler=range(start, stop),
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        multiprocessing_context="fork" if workers else None,
        pin_memory=pin,
    )


def dev_batches(stage: Stage, tools: Tools, batch: int, num_scenes: int) -> list[Batch]:
    """Return the development scenes that a stage is judged by, as at the end of the stage."""
    batches = []
    for first in range(0, num_scenes, batch):
        scenes = [scene_of(seed_of("dev", first + i)) for i in range(batch)]
        batches.append(stage.make(tools, scenes, 1.0, np.random.default_rng(first)))
    return batches
