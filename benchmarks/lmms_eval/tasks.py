"""Names of lmms-eval's tasks that papers report, and which of its metrics they mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Task:
    """A benchmark of lmms-eval's."""

    metric: str
    """The metric that papers report."""
    times: float = 100
    """What makes the figure of papers out of lmms-eval's."""


IMAGES = {
    "gqa": Task("exact_match"),
    "vqav2_val": Task("exact_match"),
    "textvqa_val": Task("exact_match"),
    "pope": Task("pope_f1_score"),
    "mme": Task("mme_perception_score", 1),
    "mmbench_en_dev": Task("gpt_eval_score", 1),
    "mmbench_cn_dev": Task("gpt_eval_score", 1),
    "scienceqa_img": Task("exact_match"),
    "vizwiz_vqa_val": Task("exact_match"),
    "mmvet": Task("gpt_eval_score", 1),
    "seedbench": Task("seed_image"),
    "mmmu_val": Task("mmmu_acc"),
    "ocrbench": Task("ocrbench_accuracy"),
}
VIDEOS = {
    "mvbench": Task("mvbench_accuracy", 1),
    "videomme": Task("videomme_perception_score", 1),
    "egoschema_subset": Task("score"),
    "nextqa_mc_test": Task("exact_match"),
}
TASKS = IMAGES | VIDEOS
FIRST = ("gqa", "pope", "mme", "scienceqa_img", "textvqa_val", "vizwiz_vqa_val")
"""Asked where nobody names tasks: they need no judge, and the papers in published.py have them."""


def metrics_of(results: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Metrics by name, each the mean over the tasks that have it: a group has several.

    Args:
        results: the key `results` of what lmms-eval writes, task -> {"metric,filter": value}.
    """
    values: dict[str, list[float]] = {}
    for of_task in results.values():
        for key, value in of_task.items():
            name = key.partition(",")[0]
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if number and "," in key and not name.endswith("_stderr"):
                values.setdefault(name, []).append(float(value))
    return {name: sum(found) / len(found) for name, found in values.items()}


def score_of(task: str, metrics: Mapping[str, float]) -> float:
    """A task's score as papers have it; of a task that is not in TASKS its first metric.

    Raises:
        ValueError: lmms-eval has not computed it.
    """
    known = TASKS.get(task) or Task(next(iter(metrics), "a metric"))
    if known.metric not in metrics:
        raise ValueError(f"lmms-eval has no {known.metric} of {task}, only {list(metrics)}")
    return known.times * metrics[known.metric]
