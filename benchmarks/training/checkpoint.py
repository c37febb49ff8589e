"""Checkpoints: one rolling file that a run needs to go on, and the weights after each stage."""

import os
from pathlib import Path
from typing import Any

import torch

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Stored in bfloat16, which nearly halves the file."""


def save_progress(
    folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, stage: str, done: int
) -> None:
    """Replace the rolling checkpoint; a run that is killed meanwhile keeps the old one."""
    state = optimizer.state_dict()
    state["state"] = {
        key: {k: v.to(torch.bfloat16) if k in MOMENTS else v for k, v in entry.items()}
        for key, entry in state["state"].items()
    }
    record = {"stage": stage, "done": done, "model": weights_of(model), "optimizer": state}
    _write(record, folder / "progress.pt")


def load_progress(folder: Path) -> dict[str, Any] | None:
    """Return the rolling checkpoint on the CPU, or None."""
    path = folder / "progress.pt"
    if not path.exists():
        return None
    record: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    for entry in record["optimizer"]["state"].values():
        for name in MOMENTS:
            entry[name] = entry[name].float()
    return record


def save_stage(folder: Path, model: torch.nn.Module, stage: str) -> None:
    """Write the weights at the end of a stage."""
    _write(weights_of(model), folder / f"{stage}.pt")


def load_stage(folder: Path, model: torch.nn.Module, stage: str) -> None:
    """Read the weights from the end of a stage."""
    load_weights(model, torch.load(folder / f"{stage}.pt", map_location="cpu", weights_only=True))


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return all parameters by name; those that are shared or tied come once."""
    return {name: value.detach() for name, value in model.named_parameters()}


def load_weights(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Fill all parameters.

    Raises:
        ValueError: the names are not those of this model.
    """
    parameters = dict(model.named_parameters())
    if parameters.keys() != weights.keys():
        odd = sorted(parameters.keys() ^ weights.keys())
        raise ValueError(f"the checkpoint is of another model, {len(odd)} names differ: {odd[:3]}")
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(value)


def _write(record: dict[str, Any], path: Path) -> None:
    partial = path.with_suffix(".partial")
    torch.save(record, partial)
    os.replace(partial, path)
