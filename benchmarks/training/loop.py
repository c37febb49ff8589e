"""Run stages one after the other: optimise, report, judge, save, and stop in time."""

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .checkpoint import load_progress, load_stage, load_weights, save_progress, save_stage

WARM_UP = 0.02
FINAL_RATE = 0.02
WEIGHT_DECAY = 0.02
BETAS = (0.9, 0.98)
MAX_NORM = 1.0
MEASURE_EVERY = 0.1
"""Share of a stage between two looks at what it is judged by."""
UNFINISHED = 3
"""Exit status of a training when the time is up before it is over."""

Batch = tuple[Any, ...]
"""NamedTuples of tensors."""
Metrics = dict[str, list[float]]
"""What a stage is judged by: lists of values, one a case, to be averaged."""


@dataclass(frozen=True)
class Stage:
    """One stage of a training: its data, its loss, and how fast each part of the model learns."""

    name: str
    samples: int
    """How many it learns from; a multiple of `batch`."""
    batch: int
    """Samples a step."""
    cost: float
    """Time a sample takes, relative to the other stages; for the estimate of the whole."""
    rates: Mapping[str, float]
    """Peak learning rate of each part that learns; a part not named stays as it is."""
    batches: Callable[[int, int], Iterable[Batch]]
    """Batches number i to j of the stage, the same whenever they are made."""
    judges: Callable[[], Sequence[Batch]]
    """Held-out batches."""
    loss: Callable[[Batch], torch.Tensor]
    measure: Callable[[Batch], Metrics]


@dataclass(frozen=True)
class Options:
    """How to train, as opposed to what."""

    folder: Path
    """Of checkpoints and log.jsonl."""
    device: str
    deadline: float = math.inf
    """Seconds since the epoch after which no further step is taken."""
    report_seconds: float = 30.0
    save_seconds: float = 120.0


def run(
    model: torch.nn.Module,
    parts: Mapping[str, tuple[str, ...]],
    stages: Sequence[Stage],
    options: Options,
    anew: str | None = None,
) -> bool:
    """Train from the rolling checkpoint, or from the start; return whether all stages are finished.

    Args:
        model: on the device, with the weights to start from.
        parts: prefixes of the parameter names of each part.
        anew: name of a stage; what was done from it on is forgotten.
    """
    names = [stage.name for stage in stages]
    progress = None if anew else load_progress(options.folder)
    first = 0
    if progress is not None:
        load_weights(model, progress["model"])
        first = names.index(progress["stage"])
    elif anew and anew != names[0]:
        first = names.index(anew)
        load_stage(options.folder, model, names[first - 1])
    for order, stage in enumerate(stages[first:], start=first):
        later = sum(other.cost * other.samples for other in stages[order + 1 :]) / stage.cost
        if not run_stage(model, parts, stage, options, progress, later):
            print("time is up; the same command goes on from here", flush=True)
            return False
        progress = None
    return True


def run_stage(
    model: torch.nn.Module,
    parts: Mapping[str, tuple[str, ...]],
    stage: Stage,
    options: Options,
    progress: dict[str, Any] | None,
    later: float,
) -> bool:
    """Train one stage to its end or to the deadline; return whether it is finished.

    Args:
        model, parts: as `run` has them.
        progress: a checkpoint of this stage to go on from, or None.
        later: the work of the stages after this one, in samples of this one.
    """
    optimizer = make_optimizer(model, parts, stage, options.device)
    done = 0
    if progress is not None:
        optimizer.load_state_dict(progress["optimizer"])
        done = progress["done"]
    judges = stage.judges()
    clock = _Clock(stage, options, done, later)
    for made in stage.batches(done // stage.batch, stage.samples // stage.batch):
        clock.made()
        set_rates(optimizer, done / stage.samples)
        loss = _step(stage, optimizer, to_device(made, options.device), options.device)
        done += stage.batch
        clock.stepped(done, loss)
        if clock.is_measure_due(done):
            clock.record(done, measure(stage, judges, options.device))
        late = time.time() > options.deadline
        if late or clock.is_save_due():
            save_progress(options.folder, model, optimizer, stage.name, done)
        if late and done < stage.samples:
            return False
    save_progress(options.folder, model, optimizer, stage.name, done)
    save_stage(options.folder, model, stage.name)
    return True


def make_optimizer(
    model: torch.nn.Module, parts: Mapping[str, tuple[str, ...]], stage: Stage, device: str
) -> torch.optim.AdamW:
    """Return AdamW over the parts that the stage trains; freeze the others."""
    groups: dict[tuple[str, bool], list[torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        part = next(part for part, prefixes in parts.items() if name.startswith(prefixes))
        parameter.requires_grad_(part in stage.rates)
        if part in stage.rates:
            groups.setdefault((part, parameter.dim() > 1), []).append(parameter)
    settings = [
        {
            "params": parameters,
            "peak": stage.rates[part],
            "weight_decay": WEIGHT_DECAY if is_matrix else 0.0,
        }
        for (part, is_matrix), parameters in groups.items()
    ]
    return torch.optim.AdamW(settings, lr=0.0, betas=BETAS, fused=device == "cuda")


def set_rates(optimizer: torch.optim.Optimizer, progress: float) -> None:
    """Warm up linearly, then fall along a cosine to FINAL_RATE of the peak."""
    cosine = (1 + math.cos(math.pi * progress)) / 2
    factor = min(1.0, (progress + 1e-4) / WARM_UP) * (FINAL_RATE + (1 - FINAL_RATE) * cosine)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def to_device(batch: Batch, device: str) -> Batch:
    """Copy the tensors of a batch."""
    return tuple(
        type(part)(*(tensor.to(device, non_blocking=True) for tensor in part)) for part in batch
    )


@torch.no_grad()
def measure(stage: Stage, batches: Sequence[Batch], device: str) -> dict[str, float]:
    """Return the means of the stage's metrics over batches."""
    values: Metrics = {}
    for batch in batches:
        with torch.autocast(device, torch.bfloat16):
            found = stage.measure(to_device(batch, device))
        for name, entries in found.items():
            values.setdefault(name, []).extend(entries)
    return {name: sum(entries) / len(entries) for name, entries in values.items() if entries}


def _step(
    stage: Stage, optimizer: torch.optim.Optimizer, batch: Batch, device: str
) -> torch.Tensor:
    """Take one step; return the loss, on the device."""
    with torch.autocast(device, torch.bfloat16):
        loss = stage.loss(batch)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM)
    optimizer.step()
    return loss.detach()


class _Clock:
    """Progress of a stage in samples and seconds; prints, and appends to log.jsonl."""

    def __init__(self, stage: Stage, options: Options, done: int, later: float) -> None:
        """`later` is the work of the stages after this one, in samples of this one."""
        self.stage, self.options, self.total, self.later = stage, options, stage.samples, later
        self.first = self.last = done
        self.began = self.reported = self.saved = self.idle_since = time.time()
        self.waited = 0.0
        self.losses: list[torch.Tensor] = []
        self.unlogged: list[torch.Tensor] = []

    def made(self) -> None:
        """A batch has arrived."""
        self.waited += time.time() - self.idle_since

    def stepped(self, done: int, loss: torch.Tensor) -> None:
        """A step is taken; report when it is time to."""
        self.losses.append(loss)
        self.unlogged.append(loss)
        now = time.time()
        if now - self.reported >= self.options.report_seconds or done == self.total:
            rate = (done - self.first) / (now - self.began)
            print(
                f"{self.stage.name} {done}/{self.total}, loss {_mean(self.losses):.3f}, "
                f"{rate:.1f}/s, {(self.total - done) / rate / 60:.1f} min left, "
                f"{(self.total - done + self.later) / rate / 60:.0f} with the stages to come, "
                f"{self.waited / (now - self.began):.0%} waiting for data",
                flush=True,
            )
            self.losses, self.reported = [], now
        self.idle_since = time.time()

    def is_measure_due(self, done: int) -> bool:
        """Whether a tenth of the stage has passed since the last time, or the stage is over."""
        due = done // (self.total * MEASURE_EVERY) > self.last // (self.total * MEASURE_EVERY)
        self.last = done
        return due or done >= self.total

    def is_save_due(self) -> bool:
        """Whether the rolling checkpoint is old; asked once a step."""
        now = time.time()
        if now - self.saved < self.options.save_seconds:
            return False
        self.saved = now
        return True

    def record(self, done: int, metrics: dict[str, float]) -> None:
        """Print metrics, and append them to the log with the mean loss since the last time."""
        print("  dev:", "  ".join(f"{k} {v:.3f}" for k, v in metrics.items()), flush=True)
        rounded = {name: round(value, 4) for name, value in metrics.items()}
        entry = {"stage": self.stage.name, "done": done, "total": self.total}
        entry |= {"loss": round(_mean(self.unlogged), 4), **rounded, "time": round(time.time())}
        with open(self.options.folder / "log.jsonl", "a") as log:
            log.write(json.dumps(entry) + "\n")
        self.unlogged = []
        self.idle_since = time.time()


def _mean(losses: Sequence[torch.Tensor]) -> float:
    return torch.stack(list(losses)).mean().item()
