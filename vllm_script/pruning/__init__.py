"""Choose which visual tokens to keep: the modes, their parameters, and two ways in.

`select_visual_tokens` is for people: it checks everything. `run_mode` is for the worker, where
nothing a client sends may raise. No vLLM and no layout here: rows in, kept indices out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from . import baselines, gsp, qcsp, script
from .frames import frame_by_frame


@dataclass(frozen=True)
class PruningParams:
    """Parameters of all modes; each mode reads the ones that concern it."""

    tau: float = 0.1
    """Similarity at which two tokens are neighbours (script, gsp), in [-1, 1]. The paper has 0.2,
    absolute, where every real token neighbours every other."""

    tau_relative: bool = True
    """Count tau from the mean similarity of the graph instead of from 0."""

    gamma: float = 1.0
    """How much close neighbours outweigh many (script, gsp), in [0, 10]. The paper has 1."""

    pool_ratio: float = 0.5
    """Part of the tokens GSP leaves to QCSP (script), in [0, 1]; never less than the budget."""

    seed: int = 0
    """Seed of the random mode, in [0, 2**32 - 1]."""

    def __post_init__(self) -> None:
        _check_number("tau", self.tau, -1, 1)
        if not isinstance(self.tau_relative, bool):
            raise ValueError(f"tau_relative must be true or false, got {self.tau_relative!r}")
        _check_number("gamma", self.gamma, 0, 10)
        _check_number("pool_ratio", self.pool_ratio, 0, 1)
        _check_number("seed", self.seed, 0, 2**32 - 1, integer=True)


Mode = Callable[..., torch.Tensor]
"""(visual_tokens [N, D], budget, relevance [N] or None, params, floors) -> kept indices [budget],
ascending. floors: of a video, the fewest tokens to keep of every frame (frames.py); else None."""

MODES: dict[str, Mode] = {
    "script": script.script,
    "gsp": gsp.gsp,
    "cdpruner": qcsp.cdpruner,
    "divprune": frame_by_frame(baselines.divprune),
    "uniform": frame_by_frame(baselines.uniform),
    "random": frame_by_frame(baselines.random),
}

# The modes whose selection depends on the query.
QUERY_MODES = frozenset({"script", "cdpruner"})


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
            query has no say. Modes outside QUERY_MODES do not read it.
        mode: a key of MODES.
        params: fields of PruningParams.

    Returns:
        kept indices [budget] int64, ascending, on visual_tokens' device.

    Raises:
        ValueError: an argument is out of range, of the wrong shape, not finite, or unknown.
    """
    _check_inputs(visual_tokens, budget, relevance)
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    known = [field.name for field in fields(PruningParams)]
    for name in params:
        if name not in known:
            raise ValueError(f"unknown parameter {name!r}, valid are: {', '.join(known)}")
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

    floors: of a video, see `Mode`; they add up to at most the budget.

    Whatever the tensors hold, exactly `budget` unique indices come back: values that are not
    finite, and negative relevance, count as 0.
    """
    num_tokens = len(visual_tokens)
    if budget == num_tokens:
        return torch.arange(num_tokens, device=visual_tokens.device)
    visual_tokens = _as_features(visual_tokens)
    if relevance is not None:
        relevance = relevance.to(visual_tokens.device, torch.float32)
        relevance = relevance.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).clamp(min=0.0)
    return MODES[mode](visual_tokens, budget, relevance, params, floors)


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
    if not isinstance(budget, int) or isinstance(budget, bool) or not 1 <= budget <= shape[0]:
        raise ValueError(
            f"budget must be an integer in [1, {shape[0]}], the number of visual tokens, "
            f"got {budget!r}"
        )
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


def _check_number(
    name: str, value: float, low: float, high: float, *, integer: bool = False
) -> None:
    kind, types = ("an integer", int) if integer else ("a number", (int, float))
    if isinstance(value, bool) or not isinstance(value, types) or not low <= value <= high:
        raise ValueError(f"{name} must be {kind} in [{low}, {high}], got {value!r}")
