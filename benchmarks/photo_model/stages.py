"""The two stages, in their order: what learns how fast, and from which questions.

connector   what lies between tower and language model learns from captions. The others stay as they
            are: a connector that knows nothing would disturb them.
joint       everything together, at lower rates, from all kinds of questions.

No visual token is ever left out: what pruning costs is to be measured on a model that does not know
of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from ..training.loader import in_order
from ..training.loop import Batch, Stage
from .batches import Pool, Source
from .forward import loss_of, measure
from .photographs import Split

PARTS = {
    "tower": ("model.vision_tower.",),
    "connector": ("model.multi_modal_projector.",),
    "language": ("model.language_model.", "lm_head."),
}
"""Prefixes of the parameter names of each part."""


@dataclass(frozen=True)
class Plan:
    """A stage before it is given a model and photographs."""

    name: str
    samples: int
    """At `--scale 1`."""
    cost: float
    """Time of a sample, relative to the other stages."""
    kinds: dict[str, float]
    """How often each kind of question is asked, relative to the others."""
    rates: dict[str, float]
    """Peak learning rate of each part that learns."""


CONNECTOR = Plan("connector", 20_000, 0.7, {"caption": 1.0}, {"connector": 1e-3})
JOINT = Plan(
    "joint",
    200_000,
    1.0,
    {"caption": 0.3, "match": 0.35, "existence": 0.2, "count": 0.1, "side": 0.05},
    {"connector": 2e-4, "language": 1e-4, "tower": 2e-5},
)
PLANS = (CONNECTOR, JOINT)


@dataclass(frozen=True)
class Load:
    """How much of the data there is at a time; see train.py for the meaning of each."""

    batch: int
    scale: float
    workers: int
    dev_samples: int
    seed: int


def stages_of(
    model: Any, processor: Any, photographs: dict[str, Split], load: Load, device: str
) -> list[Stage]:
    """Return the stages of PLANS, to be trained with `loop.run`."""
    known, dev = Pool(photographs["train"]), Pool(photographs["dev"])
    found = []
    for plan in PLANS:
        steps = max(1, round(plan.samples * load.scale / load.batch))
        source = Source(known, plan.kinds, processor, load.batch, f"{plan.name} {load.seed}")
        judges = Source(dev, plan.kinds, processor, load.batch, f"{plan.name} dev")
        found.append(
            Stage(
                name=plan.name,
                samples=steps * load.batch,
                batch=load.batch,
                cost=plan.cost,
                rates=plan.rates,
                batches=partial(in_order, source, workers=load.workers, pin=device == "cuda"),
                judges=partial(_first, judges, max(1, load.dev_samples // load.batch)),
                loss=partial(loss_of, model),
                measure=partial(measure, model),
            )
        )
    return found


def _first(source: Source, number: int) -> list[Batch]:
    return [source[index] for index in range(number)]
