"""Choose which visual tokens to keep: the modes, their parameters, and the ways in.

`select_visual_tokens` is for people: it checks everything. `run_modes` is for the worker, where
nothing a client sends may raise: it selects in many images and videos at once. An item is cut into
windows where it is very large (windows.py), and what can be selected by one call of the kernels is
put together (groups.py). No vLLM and no layout here: rows in, kept indices out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from ..setting import Choice, Number, SettingError, check_value, settings_of
from .baselines import random, uniform
from .coverage import coverage
from .divprune import divprune
from .frames import frame_by_frame
from .groups import groups_of
from .mmr import mmr
from .params import PruningParams
from .script import cdpruner, gsp, script
from .task import Select, Task, one_by_one
from .windows import windows_of


class Mode(NamedTuple):
    """A way to choose tokens, and what its selection depends on."""

    select: Select
    """Selects in tasks that are one group, see groups.py, none of which keeps all its tokens."""

    reads: tuple[str, ...] = ()
    """Fields of PruningParams that it reads; an image's plan has the others at their defaults."""

    reads_query: bool = False
    """Whether it reads the relevance; else images are shared between questions."""

    knows_frames: bool = False
    """Whether it holds to the floors of a video's frames; else it is applied frame by frame."""


_POOL = ("tau", "tau_relative", "gamma", "pool_ratio")  # what GSP reads

# A new way to choose tokens is a function of Tasks, or with `one_by_one` of a Task, in a file of
# this folder, and a line here.
MODES = {
    "script": Mode(script, (*_POOL, "geometry"), reads_query=True, knows_frames=True),
    "gsp": Mode(gsp, _POOL, knows_frames=True),
    "cdpruner": Mode(cdpruner, ("geometry",), reads_query=True, knows_frames=True),
    "coverage": Mode(coverage, ("geometry",), reads_query=True),
    "mmr": Mode(mmr, ("geometry",), reads_query=True),
    "divprune": Mode(divprune, ("geometry",)),
    "uniform": Mode(one_by_one(uniform)),
    "random": Mode(one_by_one(random), ("seed",)),
}


def select_visual_tokens(
    visual_tokens: torch.Tensor,
    budget: int,
    *,
    relevance: torch.Tensor | None = None,
    mode: str = "script",
    **params: Any,
) -> torch.Tensor:
    """Return the indices of the visual tokens to keep.

    Args:
        visual_tokens: [N, D], any float dtype and strides.
        budget: tokens to keep, in [1, N].
        relevance: [N], >= 0, high = keep; its scale does not matter. None or a constant: the
            query has no say. Modes whose `reads_query` is False ignore it.
        mode: a key of MODES.
        params: fields of PruningParams.

    Returns:
        kept indices [budget] int64, ascending, on visual_tokens' device.

    Raises:
        ValueError: an argument is out of range (then it is a SettingError), of the wrong shape,
            not finite, or unknown.
    """
    _check_inputs(visual_tokens, budget, relevance)
    check_value("mode", mode, Choice(MODES), "The method that chooses the tokens.")
    known = [each.key for each in settings_of(PruningParams)]
    for name in params:
        if name not in known:
            raise SettingError(
                "unknown", f"unknown parameter {name!r}, valid are: {', '.join(known)}"
            )
    return run_mode(visual_tokens, budget, relevance, mode, PruningParams(**params))


def run_mode(
    visual_tokens: torch.Tensor,
    budget: int,
    relevance: torch.Tensor | None,
    mode: str,
    params: PruningParams,
    floors: Sequence[int] | None = None,
) -> torch.Tensor:
    """`select_visual_tokens` without its checks: `run_modes` of one task with these fields."""
    (kept,) = run_modes([Task(visual_tokens, budget, relevance, mode, params, floors)])
    return kept


@torch.no_grad()
def run_modes(tasks: Sequence[Task]) -> list[torch.Tensor]:
    """Select in many images and videos; what is kept of one does not depend on the others.

    Args:
        tasks: on one device. Of a task's tensors only the shapes must be right: the tokens may have
            any float dtype and strides, as the relevance, whose values may be any.

    Returns:
        kept indices [budget] int64 of each task, ascending. Whatever the tensors hold, they are
        exactly `budget` and unique: values that are not finite, and negative relevance, count as 0.
    """
    windows = [
        (item, first, part)
        for item, task in enumerate(tasks)
        for first, part in windows_of(_cleaned(task))
    ]
    kept: list[list[torch.Tensor]] = [[] for _ in tasks]
    selected = _select_in_groups([part for _, _, part in windows])
    for (item, first, _), indices in zip(windows, selected, strict=True):
        kept[item].append(indices + first if first else indices)
    return [own[0] if len(own) == 1 else torch.cat(own) for own in kept]


def _cleaned(task: Task) -> Task:
    """The task with tokens as the kernels read them, and a relevance that is finite and >= 0."""
    tokens, relevance = task.tokens, task.relevance
    if tokens.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        tokens = tokens.float()
    if tokens.stride(1) != 1:
        tokens = tokens.contiguous()
    if relevance is not None:
        relevance = relevance.to(tokens.device, torch.float32)
        relevance = relevance.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).clamp(min=0.0)
    return replace(task, tokens=tokens, relevance=relevance)


def _select_in_groups(tasks: Sequence[Task]) -> list[torch.Tensor]:
    """Kept indices [budget] int64 of each of some windows, ascending."""
    kept: dict[int, torch.Tensor] = {}
    for group in groups_of(tasks):
        kept.update(zip(group, _select([tasks[place] for place in group]), strict=True))
    return [kept[place] for place in range(len(tasks))]


def _select(tasks: Sequence[Task]) -> list[torch.Tensor]:
    """Kept indices [budget] int64 of each task of one group, ascending."""
    first, mode = tasks[0], MODES[tasks[0].mode]
    if first.keeps_all:
        return [torch.arange(task.num_tokens, device=task.tokens.device) for task in tasks]
    if first.floors is not None and not mode.knows_frames:
        return [frame_by_frame(mode.select, task) for task in tasks]
    return mode.select(tasks)


def _check_inputs(visual_tokens: torch.Tensor, budget: int, relevance: torch.Tensor | None) -> None:
    shape = tuple(visual_tokens.shape)
    if len(shape) != 2 or shape[0] == 0:
        raise ValueError(
            f"visual_tokens must be [N, D] with N >= 1, got shape {shape}; "
            "pass the tokens of one image, tiles flattened"
        )
    limits = Number(1, shape[0], integer=True)
    check_value("budget", budget, limits, "The number of visual tokens to keep.")
    _check_finite("visual_tokens", visual_tokens)
    if relevance is None:
        return
    if relevance.shape != shape[:1]:
        raise ValueError(
            f"relevance must have shape [{shape[0]}], one value a visual token, "
            f"got shape {tuple(relevance.shape)}"
        )
    _check_finite("relevance", relevance)
    if relevance.min() < 0:
        raise ValueError(
            f"relevance must be >= 0, got {relevance.min().item():g}; "
            "rescale it with vllm_script.kernels.normalize_relevance"
        )


def _check_finite(name: str, x: torch.Tensor) -> None:
    num_bad = int((~x.isfinite()).sum())
    if num_bad:
        raise ValueError(
            f"{name} must be finite, got {num_bad} NaN or infinite of {x.numel()} values; "
            "check the dtype of the encoder for overflow"
        )
