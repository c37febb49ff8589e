"""Choose which visual tokens to keep: the modes, their parameters, and two ways in.

`select_visual_tokens` is for people: it checks everything. `run_mode` is for the worker, where
nothing a client sends may raise. No vLLM and no layout here: rows in, kept indices out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from ..setting import Choice, Number, SettingError, check_value, settings_of
from .baselines import divprune, random, uniform
from .frames import frame_by_frame
from .params import PruningParams
from .script import cdpruner, gsp, script
from .task import Task
from .windows import window_by_window


class Mode(NamedTuple):
    """A way to choose tokens, and what its selection depends on."""

    select: Callable[[Task], torch.Tensor]
    """Returns the kept indices [budget] int64 of a task, ascending."""

    reads: tuple[str, ...] = ()
    """Fields of PruningParams that it reads; an image's plan has the others at their defaults."""

    reads_query: bool = False
    """Whether it reads the relevance; else images are shared between questions."""

    knows_frames: bool = False
    """Whether it holds to the floors of a video's frames; else it is applied frame by frame."""


_GRAPH = ("tau", "tau_relative", "gamma")  # what GSP reads

# A new way to choose tokens is a function of a Task in a file of this folder, and a line here.
MODES = {
    "script": Mode(script, (*_GRAPH, "pool_ratio"), reads_query=True, knows_frames=True),
    "gsp": Mode(gsp, _GRAPH, knows_frames=True),
    "cdpruner": Mode(cdpruner, reads_query=True, knows_frames=True),
    "divprune": Mode(divprune),
    "uniform": Mode(uniform),
    "random": Mode(random, ("seed",)),
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


@torch.no_grad()
def run_mode(
    visual_tokens: torch.Tensor,
    budget: int,
    relevance: torch.Tensor | None,
    mode: str,
    params: PruningParams,
    floors: Sequence[int] | None = None,
) -> torch.Tensor:
    """`select_visual_tokens` without its checks, for arguments of the right shapes.

    floors: of a video, the fewest tokens to keep of every frame, see `Task`.

    Whatever the tensors hold, exactly `budget` unique indices come back: values that are not
    finite, and negative relevance, count as 0.
    """
    visual_tokens = _as_features(visual_tokens)
    if relevance is not None:
        relevance = relevance.to(visual_tokens.device, torch.float32)
        relevance = relevance.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).clamp(min=0.0)
    task = Task(visual_tokens, budget, relevance, params, floors)
    return window_by_window(partial(_select, MODES[mode]), task)


def _select(mode: Mode, task: Task) -> torch.Tensor:
    """Kept indices [budget] int64 of a task that is one window, ascending."""
    if task.budget == task.num_tokens:
        return torch.arange(task.num_tokens, device=task.tokens.device)
    if task.floors is not None and not mode.knows_frames:
        return frame_by_frame(mode.select, task)
    return mode.select(task)


def _as_features(x: torch.Tensor) -> torch.Tensor:
    """x as the kernels read it: of a dtype they multiply, the values of a row side by side."""
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        x = x.float()
    return x if x.stride(1) == 1 else x.contiguous()


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
